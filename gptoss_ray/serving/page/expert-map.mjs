// The experts of a replica as a heat map: layers downwards, experts to the right, stronger where more tokens go.

import { element } from "./dom.mjs";
import { percent } from "./format.mjs";
import { hottest, relative, strength } from "./heat.mjs";

const NUM_HOTTEST = 5;
const CELL = 8;

export class ExpertMap {
  constructor() {
    this.canvas = element("canvas", { class: "heat", role: "img", onpointermove: (event) => this.point(event) });
    this.pointed = element("p", { class: "hint heat-pointed" });
    this.caption = element("p", { class: "hint" });
    this.values = [];
    this.element = element(
      "figure",
      { class: "experts" },
      element("figcaption", {}, "Experts"),
      this.canvas,
      this.pointed,
      this.caption,
    );
    this.canvas.addEventListener("pointerleave", () => this.say(null));
    this.say(null);
  }

  /** Show loads [layers][experts]; without any there is nothing to see. */
  update(load) {
    this.element.hidden = load.length === 0;
    if (!load.length) return;
    this.values = relative(load);
    this.caption.textContent = this.describe(load);
    this.canvas.setAttribute("aria-label", this.caption.textContent);
    this.draw();
  }

  describe(load) {
    const names = hottest(load, NUM_HOTTEST).map(({ expert, share }) => `${expert} (${percent(share)})`);
    const size = `${load.length} layers of ${load[0].length} experts`;
    return names.length ? `${size}. Chosen most, over all layers: ${names.join(", ")}.` : `${size}. No token yet.`;
  }

  /** Draw again, in the colours of now. */
  redraw() {
    if (this.values.length) this.draw();
  }

  draw() {
    const [rows, columns] = [this.values.length, this.values[0].length];
    this.canvas.width = columns * CELL;
    this.canvas.height = rows * CELL;
    const context = this.canvas.getContext("2d");
    const style = getComputedStyle(this.canvas);
    context.fillStyle = style.getPropertyValue("background-color");
    context.fillRect(0, 0, this.canvas.width, this.canvas.height);
    context.fillStyle = style.color;
    this.values.forEach((layer, y) =>
      layer.forEach((value, x) => {
        context.globalAlpha = strength(value);
        context.fillRect(x * CELL, y * CELL, CELL - 1, CELL - 1);
      }),
    );
  }

  point(event) {
    const box = this.canvas.getBoundingClientRect();
    const expert = Math.floor(((event.clientX - box.left) / box.width) * this.values[0].length);
    const layer = Math.floor(((event.clientY - box.top) / box.height) * this.values.length);
    this.say(this.values[layer]?.[expert] === undefined ? null : { layer, expert });
  }

  say(place) {
    this.pointed.textContent = place
      ? `Layer ${place.layer}, expert ${place.expert}: ${this.values[place.layer][place.expert].toFixed(2)} times the mean of its layer.`
      : "The stronger the colour, the more tokens, up to four times the mean of the layer. Point at an expert to read it.";
  }
}
