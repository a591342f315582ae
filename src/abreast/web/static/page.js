"use strict";

const comparisons = JSON.parse(document.getElementById("data").textContent);
const panels = comparisons.map((_, i) => document.getElementById(`model-${i}`));
const tabs = [...document.querySelectorAll("[role=tab]")];
const rooms = comparisons.map((data, i) => ROOMS[data.schema](panels[i], data));
let current = 0;

/** Show one comparison's panel. */
function choose(index) {
  rooms[current].pause();
  current = index;
  panels.forEach((panel, i) => { panel.hidden = i !== index; });
  tabs.forEach((tab, i) => {
    tab.setAttribute("aria-selected", i === index);
    tab.tabIndex = i === index ? 0 : -1;
  });
  rooms[index].redraw();
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
    rooms[current].toggle();
  }
  const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  if (move && !event.target.closest("select, .scroll")) {
    event.preventDefault();
    rooms[current].step(move, event.target);
  }
});

addEventListener("resize", () => rooms[current].redraw());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => rooms[current].redraw());
choose(0);
