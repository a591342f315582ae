"use strict";

/** Curves of a solver over its sweeps: what still changes, and how far the answer is settled. */
function drawConvergence(root, data) {
  const change = root.querySelector("figure.change"), prefix = root.querySelector("figure.prefix");
  const curves = data.curves.map(({ method, points }) => ({ name: titled(data.methods[method]), pen: pen(method - 1), points }));
  const changes = curves.map((c) => ({ ...c, points: c.points.filter((p) => p[2] !== null && p[2] !== undefined).map(([k, , moved]) => [k, moved]) })).filter((c) => c.points.length);
  if (changes.length) {
    chart(change, { series: changes, x: "sweep", y: "change", xLog: true, yLog: true, bare: true, format: inPowers, label: "Change of a sweep" });
  } else change.append(make("p", { class: "note" }, "No method noted what a sweep changed."));
  if (curves.length) {
    const most = Math.max(...curves.map((c) => c.points.at(-1)[0]));
    const diagonal = { name: "one step a sweep", pen: { colour: "var(--soft)", dash: "1 4" }, quiet: true, points: even(Math.min(most, data.steps)).map((k) => [k, k]) };
    const series = [...curves.map((c) => ({ ...c, points: c.points.map(([k, settled]) => [k, settled]) })), ...(most > 1 ? [diagonal] : [])];
    chart(prefix, { series, x: "sweep", y: "settled steps", xLog: true, bare: true, format: (v) => String(Math.round(v)), label: "Settled steps after each sweep" });
  } else prefix.append(make("p", { class: "note" }, "No method works in sweeps."));
}

/** Some 20 numbers from 1 to `most`, even by their logarithms. */
function even(most) {
  return Array.from({ length: 21 }, (_, i) => most ** (i / 20));
}

/** A number as a power of ten, or to two digits. */
function inPowers(value) {
  return value === 0 ? "0" : value.toExponential(1).replace(".0e", "e").replace("e+", "e");
}
