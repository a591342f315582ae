"use strict";

function drawAcceptance(figure, data) {
  const series = data.acceptance.map(({ method, points }) => ({
    name: titled(data.methods[method]), pen: pen(method - 1), points: points.map(([d, share, n]) => [d, share, `${n} drafts`]),
  }));
  if (!series.length) return void figure.append(make("p", { class: "note" }, "No method guessed anything."));
  const percent = (share) => `${(100 * share).toFixed(0)} %`;
  chart(figure, { series, x: "depth of the guess", y: "accepted", format: percent, label: "Share of guesses accepted, by depth" });
}

function drawCost(figure, data) {
  const { means, curve } = data.cost;
  const series = [];
  if (curve.length) series.push({ name: "calibrated", pen: pen(1), points: curve.map(([rows, s]) => [rows, s]) });
  if (means.length) series.push({ name: "mean of the runs' calls", pen: pen(0), dots: true, points: means.map(([rows, s, n]) => [rows, s, `${n} calls`]) });
  if (!series.length) return void figure.append(make("p", { class: "note" }, "No call was timed."));
  chart(figure, { series, x: "rows", y: "seconds", xLog: true, format: inSeconds, label: "Seconds of a call by its rows" });
}

const CELLS = {
  f: ["--t0", "committed"], g: ["--c0", "right for the first time"], r: ["--c5", "still right"],
  w: ["--t1", "wrong"], ".": ["--empty", "not guessed yet"],
};

/** Iterations by positions. */
function drawJacobi(figure, picture) {
  figure.querySelectorAll("canvas, .legend, p").forEach((old) => old.remove());
  if (!picture) return void figure.append(make("p", { class: "note" }, "Not run on this prompt."));
  const { lines, tokens } = picture;
  const wide = Math.max(figure.clientWidth - 40, 280), cell = Math.max(Math.min(wide / tokens, 14), 2);
  const tall = Math.min(cell, 420 / lines.length), ratio = window.devicePixelRatio || 1;
  const canvas = make("canvas", { role: "img", "aria-label": `${picture.method}: ${lines.length} calls for ${tokens} tokens` });
  canvas.width = Math.round(cell * tokens * ratio);
  canvas.height = Math.round(tall * lines.length * ratio);
  canvas.style.width = `${cell * tokens}px`;
  canvas.style.height = `${tall * lines.length}px`;
  const pen2d = canvas.getContext("2d");
  pen2d.scale(ratio, ratio);
  const gap = Math.min(cell, tall) > 4 ? 1 : 0;
  lines.forEach((line, row) => [...line].forEach((letter, column) => {
    pen2d.fillStyle = css(CELLS[letter][0]);
    pen2d.fillRect(column * cell, row * tall, cell - gap, tall - gap);
  }));
  const list = make("ul", { class: "legend" });
  for (const [colour, name] of Object.values(CELLS)) list.append(make("li", {}, make("i", { style: `background: var(${colour})` }), name));
  figure.append(canvas, list, make("p", { class: "note" }, `${picture.method}: ${lines.length} calls for ${tokens} tokens.`));
}

/** A comparison of decoding methods: the race, and why. */
ROOMS["abreast.decode"] = (root, data) => {
  const race = new Race(root, data), jacobi = root.querySelector(".jacobi");
  drawAcceptance(root.querySelector(".acceptance"), data);
  drawCost(root.querySelector(".cost"), data);
  race.redraw = () => {
    race.resize();
    if (jacobi) drawJacobi(jacobi, data.jacobi[Number(race.problem.value) || 0]);
  };
  race.onProblem = race.redraw;
  return race;
};
