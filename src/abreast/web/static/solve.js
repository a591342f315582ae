"use strict";

/** A comparison of solvers: convergence, and what every device does when. */
ROOMS["abreast.solve"] = (panel, data) => {
  drawConvergence(panel, data);
  const schedule = new Schedule(panel, data);
  return { pause() {}, toggle() {}, redraw: () => schedule.redraw(), step: (direction) => schedule.step(direction) };
};
