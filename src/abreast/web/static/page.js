"use strict";

const comparisons = JSON.parse(document.getElementById("data").textContent);
const panels = comparisons.map((_, i) => document.getElementById(`model-${i}`));
const tabs = [...document.querySelectorAll("[role=tab]")];
const races = comparisons.map((data, i) => {
  const panel = panels[i], race = new Race(panel, data), jacobi = panel.querySelector(".jacobi");
  drawAcceptance(panel.querySelector(".acceptance"), data);
  drawCost(panel.querySelector(".cost"), data);
  race.redraw = () => {
    race.resize();
    if (jacobi) drawJacobi(jacobi, data.jacobi[Number(race.problem.value) || 0]);
  };
  race.onProblem = race.redraw;
  return race;
});
let current = 0;

/** Show one model's panel. */
function choose(index) {
  races[current].pause();
  current = index;
  panels.forEach((panel, i) => { panel.hidden = i !== index; });
  tabs.forEach((tab, i) => {
    tab.setAttribute("aria-selected", i === index);
    tab.tabIndex = i === index ? 0 : -1;
  });
  races[index].redraw();
}

tabs.forEach((tab, i) => {
  tab.addEventListener("click", () => choose(i));
  tab.addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    event.stopPropagation();
    const next = (i + move + tabs.length) % tabs.length;
    choose(next);
    tabs[next].focus();
  });
});

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const own = event.target.closest("button, select, summary, input[type=checkbox]");
  if (event.key === " " && !own) {
    event.preventDefault();
    races[current].toggle();
  }
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (move && !event.target.closest("select, .scroll")) {
    event.preventDefault();
    races[current].step(move);
  }
});

addEventListener("resize", () => races[current].redraw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => races[current].redraw());
choose(0);
