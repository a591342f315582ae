"use strict";

const SVG = "http://www.w3.org/2000/svg";
const COLOURS = 7;
const ROOMS = {}; // schema -> (panel, data) -> {pause, redraw, toggle, step}

/** An element with attributes and children. */
function make(name, attributes = {}, ...children) {
  const svg = ["svg", "path", "line", "circle", "text", "g", "title"].includes(name);
  const node = svg ? document.createElementNS(SVG, name) : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  node.append(...children);
  return node;
}

/** A colour of the page's own scheme. */
function css(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** Seconds in the unit that suits `scale`. */
function inSeconds(seconds, scale = seconds) {
  const [unit, factor] = scale >= 1 ? ["s", 1] : scale >= 1e-3 ? ["ms", 1e3] : ["µs", 1e6];
  const value = seconds * factor;
  if (value === 0) return "0";
  return `${value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)} ${unit}`;
}

/** Round numbers from 0 to at least `most`, about `count` of them. */
function ticksTo(most, count) {
  if (!(most > 0)) return [0, 1];
  const raw = most / count, ten = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * ten).find((s) => s >= raw);
  return Array.from({ length: Math.ceil(most / step - 1e-9) + 1 }, (_, i) => i * step);
}

/** How a series is drawn: colour and dashes, so that neither alone has to tell it apart. */
function pen(index) {
  return { colour: `var(--c${index % COLOURS})`, dash: ["", "5 3", "2 3"][Math.floor(index / COLOURS) % 3] };
}

/**
 * A chart of series {name, pen, points: [x, y, note], dots}, and its numbers as a table. The y axis begins at 0; with
 * yLog it is in powers of ten, and what is 0 lies on its floor. bare: without a dot at each point of a long curve; a quiet
 * series has neither dots nor numbers.
 */
function chart(figure, { series, x, y, xLog = false, yLog = false, bare = false, format = String, label }) {
  const width = 420, height = 240, left = 60, right = 10, top = 10, bottom = 36;
  const xs = series.flatMap((s) => s.points.map((p) => p[0]));
  const up = axis(series.flatMap((s) => s.points.map((p) => p[1])), yLog);
  const [low, high] = [Math.min(...xs), Math.max(...xs)];
  const scale = xLog ? Math.log2 : (v) => v;
  const spread = scale(high) - scale(low) || 1;
  const atX = (v) => left + 8 + ((scale(v) - scale(low)) / spread) * (width - left - right - 16);
  const atY = (v) => height - bottom - up.at(v) * (height - top - bottom);
  const svg = make("svg", { viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  for (const tick of up.ticks) {
    svg.append(make("line", { x1: left, x2: width - right, y1: atY(tick), y2: atY(tick), stroke: "var(--line)" }));
    svg.append(make("text", { x: left - 6, y: atY(tick) + 4, "text-anchor": "end" }, format(tick, up.ticks.at(-1))));
  }
  for (const tick of xTicks(low, high, xLog)) {
    svg.append(make("text", { x: atX(tick), y: height - bottom + 16, "text-anchor": "middle" }, String(tick)));
  }
  svg.append(make("text", { x: (left + width - right) / 2, y: height - 4, "text-anchor": "middle" }, x));
  for (const s of series) {
    const path = s.points.map((p, i) => `${i ? "L" : "M"}${atX(p[0]).toFixed(1)} ${atY(p[1]).toFixed(1)}`).join("");
    if (!s.dots) {
      const line = make("path", { d: path, fill: "none", stroke: s.pen.colour, "stroke-width": 2, "stroke-dasharray": s.pen.dash, "stroke-linejoin": "round" });
      line.append(make("title", {}, s.name));
      svg.append(line);
    }
    if (s.quiet || (bare && s.points.length > 24)) continue;
    for (const p of s.points) {
      const said = `${s.name}: ${x} ${p[0]}, ${format(p[1])}${p[2] === undefined ? "" : `, ${p[2]}`}`;
      const dot = make("circle", { cx: atX(p[0]), cy: atY(p[1]), r: s.dots ? 4 : 2.6, fill: s.pen.colour, "fill-opacity": s.dots ? 0.65 : 1 });
      dot.append(make("title", {}, said));
      svg.append(dot);
    }
  }
  figure.append(svg, legend(series), numbers(series, x, y, format));
}

/** Where values lie between the ends of a y axis (0 to 1), and its ticks. */
function axis(values, log) {
  const above = values.filter((v) => v > 0);
  if (!log || !above.length) {
    const ticks = ticksTo(Math.max(...values), 4);
    return { ticks, at: (v) => v / ticks.at(-1) };
  }
  const low = Math.floor(Math.log10(Math.min(...above))), high = Math.ceil(Math.log10(Math.max(...above)) + 1e-9);
  const step = Math.max(1, Math.ceil((high - low) / 5)), top = low + step * Math.ceil((high - low) / step || 1);
  const ticks = Array.from({ length: (top - low) / step + 1 }, (_, i) => 10 ** (low + i * step));
  return { ticks, at: (v) => (v > 0 ? (Math.log10(v) - low) / (top - low) : 0) };
}

function xTicks(low, high, log) {
  if (log) {
    const first = Math.ceil(Math.log2(low)), last = Math.floor(Math.log2(high));
    return Array.from({ length: Math.max(last - first + 1, 0) }, (_, i) => 2 ** (first + i));
  }
  const step = Math.max(1, Math.ceil((high - low) / 8));
  return Array.from({ length: Math.floor((high - low) / step) + 1 }, (_, i) => low + i * step);
}

function legend(series) {
  const list = make("ul", { class: "legend" });
  for (const s of series) {
    const sample = make("svg", { viewBox: "0 0 22 10", "aria-hidden": "true" });
    sample.append(s.dots
      ? make("circle", { cx: 11, cy: 5, r: 4, fill: s.pen.colour, "fill-opacity": 0.65 })
      : make("path", { d: "M0 5H22", stroke: s.pen.colour, "stroke-width": 2.4, "stroke-dasharray": s.pen.dash }));
    list.append(make("li", {}, sample, s.name));
  }
  return list;
}

/** The same as numbers, for those who cannot see it or want them. */
function numbers(series, x, y, format) {
  const body = make("tbody");
  for (const s of series.filter((each) => !each.quiet)) {
    for (const p of s.points) {
      body.append(make("tr", {}, make("td", {}, s.name), make("td", { class: "n" }, String(p[0])), make("td", { class: "n" }, format(p[1])), make("td", {}, p[2] ?? "")));
    }
  }
  const head = make("tr", {}, ...["", x, y, ""].map((name) => make("th", { scope: "col" }, name)));
  const table = make("table", {}, make("thead", {}, head), body);
  return make("details", {}, make("summary", {}, "as numbers"), make("div", { tabindex: 0 }, table));
}

/** A method's name with what is set. */
function titled(method) {
  return method.fields ? `${method.name} (${method.fields})` : method.name;
}
