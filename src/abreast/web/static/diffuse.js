"use strict";

/** Methods and fewer steps by span and distance. */
function drawNear(figure, data) {
  const plain = new Map(), series = [];
  data.near.forEach(({ method, kind, span, distance }) => {
    const facts = data.methods[method];
    if (kind) plain.set(kind, [...(plain.get(kind) ?? []), [span, distance]]);
    else series.push({ name: titled(facts), dots: true, pen: pen(series.length), points: [[span, distance]] });
  });
  let turn = 0;
  for (const [kind, points] of plain) {
    const sorted = [...new Map(points.map((p) => [p[0], p])).values()].sort((a, b) => a[0] - b[0]);
    series.push({ name: kind, pen: { colour: "var(--soft)", dash: ["", "5 3", "2 3", "8 2 2 2"][turn++ % 4] }, points: sorted });
  }
  if (!series.length) return void figure.append(make("p", { class: "note" }, "Nothing was run beside the reference."));
  chart(figure, { series, x: "span", y: "distance", yLog: true, format: inPowers, label: "Distance from the reference by span" });
}

/** A comparison of samplers: pictures, what nearness costs, and what every device does when. */
ROOMS["abreast.diffuse"] = (panel, data) => {
  drawNear(panel.querySelector("figure.near"), data);
  drawConvergence(panel, data);
  const schedule = new Schedule(panel, data), pictures = data.pictures.length ? new Pictures(panel, data) : null;
  const step = (direction, target) => (pictures && !target?.closest?.(".schedule") ? pictures : schedule).step(direction);
  return { pause() {}, toggle() {}, redraw: () => schedule.redraw(), step };
};
