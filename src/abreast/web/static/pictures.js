"use strict";

/** Samples of every method beside the reference's, as far as they were after so many evaluations. */
class Pictures {
  constructor(panel, data) {
    this.root = panel.querySelector(".pictures");
    this.methods = data.methods;
    for (const name of ["gain", "rivals", "seek", "now", "cards"]) this[name] = this.root.querySelector(`.${name}`);
    this.length = Math.max(...data.pictures.flatMap(({ images }) => images.map(([span]) => span)));
    this.moments = [...new Set(data.pictures.flatMap(({ images }) => images.map(([span]) => span)))].sort((a, b) => a - b);
    const reference = data.pictures.find(({ method }) => data.methods[method].reference);
    this.answer = reference ? pixels(reference.images.at(-1)[2]) : null;
    this.list = data.pictures.map((facts) => new Card(facts, data.methods[facts.method], this.cards));
    this.seek.addEventListener("input", () => this.show((this.seek.value / 1000) * this.length));
    this.seek.addEventListener("keydown", (event) => { if (/^Arrow(Left|Right)$/.test(event.key)) event.preventDefault(); });
    this.gain.addEventListener("change", () => this.show(this.time));
    this.rivals.addEventListener("change", () => this.cards.classList.toggle("alone", !this.rivals.checked));
    this.show(this.length);
  }

  show(span) {
    this.time = Math.min(Math.max(span, 0), this.length);
    this.seek.value = Math.round((this.time / this.length) * 1000);
    this.seek.setAttribute("aria-valuetext", `${this.time.toFixed(1)} evaluations`);
    const done = this.list.filter((card) => card.end <= this.time + 1e-9).map((card) => card.name);
    this.now.textContent = `after ${this.time.toFixed(1)} of ${this.length.toFixed(0)} evaluations one after the other: ${done.length ? `${done.length} of ${this.list.length} have ended` : "none has ended"}`;
    for (const card of this.list) card.show(this.time, this.answer, Number(this.gain.value));
  }

  step(direction) {
    const next = direction > 0 ? this.moments.find((m) => m > this.time + 1e-9) : this.moments.findLast((m) => m < this.time - 1e-9);
    this.show(next ?? (direction > 0 ? this.length : 0));
  }
}

class Card {
  constructor(facts, method, list) {
    this.images = facts.images;
    this.name = titled(method);
    this.end = this.images.at(-1)[0];
    this.state = make("small", {});
    this.picture = make("img", { alt: "" });
    this.gap = make("canvas", { role: "img", "aria-label": `${this.name}: difference from the reference` });
    const control = method.control ? [make("span", { class: "control" }, "control"), " "] : [];
    const head = make("p", {}, ...control, make("b", {}, method.name), " ", make("small", {}, method.fields));
    list.append(make("li", method.control ? { class: "rival" } : {}, head, this.picture, this.gap, this.state));
    this.reference = method.reference;
  }

  show(time, answer, gain) {
    const at = this.images.findLastIndex(([span]) => span <= time + 1e-9), image = this.images[at];
    this.picture.hidden = !image;
    this.state.textContent = !image ? `its answer comes after ${this.end.toFixed(1)}`
      : at === this.images.length - 1 ? `the answer, after ${this.end.toFixed(1)}` : `step ${image[1]}, after ${image[0].toFixed(1)}`;
    // On the way two samplers are at different noise: only answers are compared.
    this.gap.hidden = at !== this.images.length - 1 || !gain || this.reference || !answer;
    if (!image) return;
    if (this.picture.getAttribute("src") !== image[2]) this.picture.src = image[2];
    this.picture.alt = `${this.name}: ${this.state.textContent}`;
    if (this.gap.hidden) return;
    const wanted = (this.wanted = {});
    Promise.all([answer, pixels(image[2])]).then(([a, b]) => { if (this.wanted === wanted) difference(this.gap, a, b, gain); });
  }
}

const known = new Map();

/** The bytes of a picture, once. */
function pixels(source) {
  if (!known.has(source)) {
    const image = new Image();
    image.src = source;
    known.set(source, image.decode().then(() => {
      const canvas = make("canvas", { width: image.naturalWidth, height: image.naturalHeight }), pen2d = canvas.getContext("2d");
      pen2d.drawImage(image, 0, 0);
      return pen2d.getImageData(0, 0, canvas.width, canvas.height);
    }));
  }
  return known.get(source);
}

/** |a - b| as red on white. */
function difference(canvas, a, b, gain) {
  canvas.width = b.width;
  canvas.height = b.height;
  const out = new ImageData(b.width, b.height);
  for (let i = 0; i < b.data.length; i += 4) {
    const gap = Math.min(255, gain * Math.max(...[0, 1, 2].map((c) => Math.abs(a.data[i + c] - b.data[i + c]))));
    out.data.set([255 - gap * 0.2, 255 - gap, 255 - gap, 255], i);
  }
  canvas.getContext("2d").putImageData(out, 0, 0);
}
