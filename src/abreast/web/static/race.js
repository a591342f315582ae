"use strict";

const WHOLE = 10; // seconds that the whole race takes where no pace is asked for
const TINTS = 4;

/** One comparison's race: lanes that show calls and text up to a moment. */
class Race {
  constructor(root, data) {
    this.root = root.querySelector(".race");
    this.data = data;
    this.playing = false;
    this.time = 0;
    for (const name of ["play", "problem", "clock", "pace", "whole", "seek", "now", "lanes", "ticks", "clock-note"]) {
      this[name.replace("-n", "N")] = this.root.querySelector(`.${name}`);
    }
    this.prompt = this.root.querySelector(".prompt pre");
    data.problems.forEach((problem, i) => this.problem.append(new Option(`${problem.name} (${problem.kind})`, i)));
    data.clocks.forEach((clock) => this.clock.append(new Option(clock.name, clock.id)));
    this.play.addEventListener("click", () => this.toggle());
    this.problem.addEventListener("change", () => this.build());
    this.clock.addEventListener("change", () => this.turnClock());
    this.whole.addEventListener("change", () => this.lanes.classList.toggle("all", this.whole.checked));
    this.seek.addEventListener("input", () => { this.pause(); this.show((this.seek.value / 1000) * this.length); });
    this.seek.addEventListener("keydown", (event) => { if (/^Arrow(Left|Right)$/.test(event.key)) event.preventDefault(); });
    this.build();
  }

  /** The lanes of the chosen prompt. */
  build() {
    this.pause();
    const number = Number(this.problem.value) || 0;
    this.prompt.textContent = this.data.problems[number].prompt;
    this.lanes.replaceChildren();
    this.race = this.data.races[number].map((facts) => new Lane(facts, this.data.methods[facts.method], this.lanes));
    this.turnClock();
    this.onProblem?.(number);
  }

  /** Times by the chosen clock. */
  turnClock() {
    this.pause();
    const clock = this.data.clocks.find((known) => known.id === this.clock.value);
    for (const lane of this.race) lane.setClock(clock.id);
    this.length = Math.max(...this.race.map((lane) => lane.end));
    this.moments = [...new Set(this.race.flatMap((lane) => lane.moments))].sort((a, b) => a - b);
    this.clockNote.textContent = clock.id === "here"
      ? `Seconds measured on this machine: ${clock.source}.`
      : `Seconds on ${clock.name} as a roofline of its peak rates gives them: bounds, no forecasts.`;
    this.drawAxis();
    this.show(this.length);
  }

  drawAxis() {
    const width = this.ticks.clientWidth || 600;
    this.ticks.setAttribute("viewBox", `0 0 ${width} 20`);
    this.ticks.replaceChildren();
    for (const tick of ticksTo(this.length, width < 500 ? 3 : 6)) {
      if (tick > this.length) continue;
      const x = (tick / this.length) * width, anchor = tick === 0 ? "start" : x > width - 30 ? "end" : "middle";
      this.ticks.append(make("text", { x, y: 14, "text-anchor": anchor, "font-size": 11.5, fill: "var(--soft)" }, inSeconds(tick, this.length)));
    }
  }

  /** Everything up to a moment. */
  show(time) {
    this.time = Math.min(Math.max(time, 0), this.length);
    this.seek.value = Math.round((this.time / this.length) * 1000);
    this.seek.setAttribute("aria-valuetext", inSeconds(this.time, this.length));
    const ended = this.race.filter((lane) => lane.end <= this.time && lane.same);
    const first = ended.reduce((best, lane) => (!best || lane.end < best.end ? lane : best), null);
    for (const lane of this.race) lane.show(this.time, this.length, lane === first);
    if (!this.playing) this.now.textContent = this.said();
  }

  said() {
    const at = this.race.filter((lane) => lane.moments.some((moment) => Math.abs(moment - this.time) < 1e-12));
    const words = at.map((lane) => `${lane.name} commits ${lane.committedAt(this.time)}`).slice(0, 3).join(", ");
    return `${inSeconds(this.time, this.length)} of ${inSeconds(this.length)}${words ? `: ${words}` : ""}`;
  }

  toggle() { this.playing ? this.pause() : this.start(); }

  start() {
    if (this.time >= this.length) this.time = 0;
    this.playing = true;
    this.play.textContent = "❚❚ Pause";
    this.now.textContent = "playing";
    let last = performance.now();
    const frame = (now) => {
      if (!this.playing) return;
      const pace = this.pace.value === "whole" ? this.length / WHOLE : Number(this.pace.value);
      this.show(this.time + ((now - last) / 1000) * pace);
      last = now;
      if (this.time >= this.length) this.pause();
      else requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  pause() {
    if (!this.playing) return;
    this.playing = false;
    this.play.textContent = "▶ Play";
    this.now.textContent = this.said();
  }

  /** To the next moment at which any lane commits, or the one before. */
  step(direction) {
    this.pause();
    const next = direction > 0
      ? this.moments.find((moment) => moment > this.time + 1e-12)
      : this.moments.findLast((moment) => moment < this.time - 1e-12);
    this.show(next ?? (direction > 0 ? this.length : 0));
  }

  resize() {
    this.drawAxis();
    this.show(this.time);
  }
}

/** One method: a strip of calls, and the text. */
class Lane {
  constructor(facts, method, list) {
    this.facts = facts;
    this.name = method.name;
    this.same = method.reference || /identical|near tie/.test(facts.outcome);
    this.state = make("span", { class: "state" });
    const control = method.control ? [make("span", { class: "control" }, "control")] : [];
    const head = make("div", { class: "lane-head" }, ...control, make("b", {}, method.name), make("small", {}, method.fields), this.state);
    this.canvas = make("canvas", { role: "img" });
    this.text = make("div", { class: "text", tabindex: 0, "aria-label": `Text of ${method.name}` });
    this.spans = this.spell();
    this.text.append(...this.spans);
    list.append(make("li", {}, head, this.canvas, this.text));
  }

  /** A span for each committing call; those of several tokens take turns in colour. */
  spell() {
    let turn = 0, tokens = 0;
    return this.facts.steps.map(([event, count, words]) => {
      const span = make("span", { title: `${count} token${count > 1 ? "s" : ""}, ${this.facts.events.rows[event]} rows` }, words);
      if (count > 1) span.className = `t${turn++ % TINTS}`;
      tokens += count;
      if (this.facts.differs !== null && tokens > this.facts.differs) span.classList.add("differs");
      return span;
    });
  }

  setClock(id) {
    [this.starts, this.ends] = this.facts.times[id];
    this.moments = this.facts.steps.map(([event]) => this.ends[event]);
    this.end = Math.max(...this.ends);
    this.shown = -1;
    this.canvas.setAttribute("aria-label", `${this.name}: ${this.ends.length} calls, ends after ${inSeconds(this.end)}`);
  }

  committedAt(time) {
    const at = this.moments.findIndex((moment) => Math.abs(moment - time) < 1e-12);
    const count = this.facts.steps[at][1];
    return `${count} token${count > 1 ? "s" : ""}`;
  }

  show(time, length, first) {
    let steps = this.moments.findLastIndex((moment) => moment <= time) + 1;
    if (steps !== this.shown) {
      this.spans.forEach((span, i) => { span.hidden = i >= steps; });
      this.text.scrollTop = this.text.scrollHeight;
      this.shown = steps;
    }
    const tokens = this.facts.steps.slice(0, steps).reduce((sum, [, count]) => sum + count, 0);
    const ended = this.end <= time;
    this.state.textContent = `${tokens} tokens${ended ? ` in ${inSeconds(this.end)}` : ""}${ended && this.facts.outcome !== "reference" ? `, ${this.facts.outcome}` : ""}`;
    this.state.classList.toggle("first", first);
    this.draw(time, length);
  }

  draw(time, length) {
    const { canvas, facts } = this, ratio = window.devicePixelRatio || 1;
    const width = canvas.clientWidth, height = 22;
    if (!width) return;
    if (canvas.width !== Math.round(width * ratio)) canvas.width = Math.round(width * ratio);
    if (canvas.height !== Math.round(height * ratio)) canvas.height = Math.round(height * ratio);
    const pen2d = canvas.getContext("2d"), paint = palette();
    pen2d.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen2d.clearRect(0, 0, width, height);
    pen2d.fillStyle = paint.line;
    pen2d.fillRect(0, height - 1, width, 1);
    const committed = new Map(facts.steps.map(([event, count], i) => [event, count]));
    let turn = 0;
    this.starts.forEach((start, i) => {
      const count = committed.get(i) ?? 0, kind = facts.kinds[facts.events.kind[i]];
      const colour = count > 1 ? paint.tints[turn++ % TINTS] : paint.soft;
      if (start > time) return;
      const x = (start / length) * width, w = ((Math.min(this.ends[i], time) - start) / length) * width;
      const tall = kind === "target" || kind === "prefill" ? Math.min(5 + 2.6 * Math.max(count - 1, 0), height - 2) : 3;
      pen2d.fillStyle = kind === "target" ? colour : paint.faint;
      pen2d.fillRect(x, height - 1 - tall, Math.max(w - (w > 3 ? 0.8 : 0), 0.6), tall);
    });
    if (time < length) {
      pen2d.fillStyle = paint.ink;
      pen2d.fillRect((time / length) * width - 0.75, 0, 1.5, height);
    }
  }
}

let painted = null;

/** The scheme's colours, read once until it changes. */
function palette() {
  painted ??= { line: css("--line"), soft: css("--soft"), faint: css("--faint"), ink: css("--ink"), tints: [0, 1, 2, 3].map((i) => css(`--c${i}`)) };
  return painted;
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { painted = null; });
