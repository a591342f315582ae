"use strict";

const ROW = 13;

/** What every device does when: a band a method, a row a lane, on a machine of choice. */
class Schedule {
  constructor(panel, data) {
    this.root = panel.querySelector(".schedule");
    this.data = data;
    for (const name of ["machine", "scale", "seek", "now", "bands", "ticks", "kinds"]) this[name] = this.root.querySelector(`.${name}`);
    this.note = this.root.querySelector(".clock-note");
    data.machines.forEach((machine) => this.machine.append(new Option(machine.name, machine.id)));
    this.kindNames = [...new Set(data.schedules.flatMap((s) => s.kinds))];
    this.bandList = data.schedules.map((facts) => new Band(facts, data.methods[facts.method], this.kindNames, this.bands));
    this.drawLegend();
    this.machine.addEventListener("change", () => this.turn());
    this.scale.addEventListener("change", () => this.turn());
    this.seek.addEventListener("input", () => this.show((this.seek.value / 1000) * this.length));
    this.seek.addEventListener("keydown", (event) => { if (/^Arrow(Left|Right)$/.test(event.key)) event.preventDefault(); });
    this.turn();
  }

  turn() {
    const machine = this.data.machines.find((known) => known.id === this.machine.value);
    for (const band of this.bandList) band.setClock(machine.id);
    const shown = this.bandList.filter((band) => this.scale.value === "all" || band.method.reference);
    this.length = Math.max(...(shown.length ? shown : this.bandList).map((band) => band.end)) || 1e-9;
    this.moments = [...new Set(this.bandList.flatMap((band) => band.ends))].filter((t) => t <= this.length).sort((a, b) => a - b);
    this.note.textContent = machine.id === "here" ? `Seconds measured on this machine: ${machine.source}.` : `Replayed on ${machine.name}: bounds, no forecasts.`;
    this.time = this.length;
    this.redraw();
  }

  redraw() {
    const width = this.ticks.clientWidth;
    if (!width) return;
    this.ticks.setAttribute("viewBox", `0 0 ${width} 20`);
    this.ticks.replaceChildren();
    for (const tick of ticksTo(this.length, width < 500 ? 3 : 6)) {
      if (tick > this.length) continue;
      const x = (tick / this.length) * width, anchor = tick === 0 ? "start" : x > width - 30 ? "end" : "middle";
      this.ticks.append(make("text", { x, y: 14, "text-anchor": anchor, "font-size": 11.5, fill: "var(--soft)" }, inSeconds(tick, this.length)));
    }
    for (const band of this.bandList) band.draw(this.length);
    this.show(this.time);
  }

  show(time) {
    this.time = Math.min(Math.max(time, 0), this.length);
    this.seek.value = Math.round((this.time / this.length) * 1000);
    this.seek.setAttribute("aria-valuetext", inSeconds(this.time, this.length));
    for (const band of this.bandList) band.mark(this.time, this.length);
    const busy = this.bandList.filter((band) => band.end > this.time && !band.method.control);
    const doing = busy.slice(0, 4).map((band) => `${band.method.name} ${band.said(this.time)}`);
    if (busy.length > 4) doing.push(`and ${busy.length - 4} more methods`);
    this.now.textContent = `${inSeconds(this.time, this.length)}: ${doing.join("; ") || "all done"}`;
  }

  /** To the next end of a block, or the one before; a block is never narrower than a hair's step. */
  step(direction) {
    const hair = this.length / 1000;
    const next = direction > 0 ? this.moments.find((t) => t > this.time + hair) : this.moments.findLast((t) => t < this.time - hair);
    this.show(next ?? (direction > 0 ? this.length : 0));
  }

  drawLegend() {
    this.kindNames.forEach((kind, i) => this.kinds.append(make("li", {}, make("i", { style: `background: ${kindColour(i)}` }), kind)));
  }
}

function kindColour(i) { return `var(--c${i % COLOURS})`; }

/** One method's lanes. */
class Band {
  constructor(facts, method, kindNames, list) {
    this.facts = facts;
    this.method = method;
    this.colours = facts.kinds.map((kind) => kindNames.indexOf(kind));
    this.state = make("span", { class: "state" });
    this.svg = make("svg", { role: "img", preserveAspectRatio: "none", height: ROW * facts.lanes.length });
    const control = method.control ? [make("span", { class: "control" }, "control")] : [];
    const names = facts.lanes.length > 1 ? [make("small", { class: "lane-names" }, `${facts.lanes.length} rows: ${facts.lanes.join(", ")}`)] : [];
    list.append(make("li", {}, make("div", { class: "lane-head" }, ...control, make("b", {}, method.name), make("small", {}, method.fields), this.state), this.svg, ...names));
  }

  setClock(id) {
    [this.starts, this.ends] = this.facts.times[id];
    this.end = Math.max(0, ...this.ends);
    this.state.textContent = inSeconds(this.end);
    const computing = this.facts.blocks.reduce((sum, block, i) => sum + (block[3] ? 0 : this.ends[i] - this.starts[i]), 0);
    const lanes = new Set(this.facts.blocks.filter((block) => !block[3]).map((block) => block[0])).size;
    if (lanes > 1) this.state.textContent += `, ${((100 * computing) / (lanes * this.end || 1)).toFixed(0)} % busy`;
    this.svg.setAttribute("aria-label", `${this.method.name}: ${this.facts.blocks.length} blocks on ${this.facts.lanes.length} rows, ${inSeconds(this.end)}`);
  }

  /** One path a kind: thousands of blocks stay few elements. */
  draw(length) {
    const width = this.svg.clientWidth || 600, height = ROW * this.facts.lanes.length;
    this.svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.svg.replaceChildren();
    for (let lane = 0; lane < this.facts.lanes.length; lane++) {
      this.svg.append(make("line", { x1: 0, x2: width, y1: (lane + 1) * ROW - 1.5, y2: (lane + 1) * ROW - 1.5, stroke: "var(--line)" }));
    }
    const paths = this.facts.kinds.map(() => []);
    this.facts.blocks.forEach(([lane, kind, , bytes], i) => {
      const x = (this.starts[i] / length) * width, w = ((this.ends[i] - this.starts[i]) / length) * width;
      if (w <= 0 || x >= width) return;
      const gap = w > 3 ? 0.7 : 0, tall = bytes ? 5 : ROW - 4;
      paths[kind].push(`M${x.toFixed(2)} ${lane * ROW + (ROW - 2 - tall)}h${Math.max(w - gap, 0.5).toFixed(2)}v${tall}h${(-Math.max(w - gap, 0.5)).toFixed(2)}z`);
    });
    paths.forEach((parts, kind) => {
      if (parts.length) this.svg.append(make("path", { d: parts.join(""), fill: kindColour(this.colours[kind]) }));
    });
    this.line = make("line", { y1: 0, y2: height, stroke: "var(--ink)", "stroke-width": 1.5 });
    this.svg.append(this.line);
  }

  mark(time, length) {
    const x = (time / length) * (this.svg.clientWidth || 600);
    this.line?.setAttribute("x1", x);
    this.line?.setAttribute("x2", x);
    if (this.line) this.line.style.visibility = time < length ? "visible" : "hidden";
  }

  /** What its lanes do at a moment. */
  said(time) {
    const now = [];
    this.facts.blocks.forEach(([lane, kind, size, bytes, events], i) => {
      if (this.starts[i] <= time && time < this.ends[i]) {
        now.push(`${this.facts.kinds[kind]} of ${bytes ? `${bytes} bytes` : `${Number(size.toPrecision(3))} row${size === 1 ? "" : "s"}`}${events > 1 ? `, ${events} events` : ""}${this.facts.lanes.length > 1 ? ` on ${this.facts.lanes[lane]}` : ""}`);
      }
    });
    return now.length > 3 ? `${now.slice(0, 3).join(", ")} and ${now.length - 3} more` : now.join(", ") || "waits";
  }
}
