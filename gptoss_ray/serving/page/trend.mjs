// A line of the last minutes, without axes: how a rate has moved.

import { element } from "./dom.mjs";
import { quantity } from "./format.mjs";

const SVG = "http://www.w3.org/2000/svg";
const WIDTH = 240;
const HEIGHT = 40;
const MAX_POINTS = 90;

export class Trend {
  constructor() {
    this.values = [];
  }

  add(value) {
    if (value === null) return;
    this.values.push(value);
    if (this.values.length > MAX_POINTS) this.values.shift();
  }

  /** Return the line; its label says what it shows to those who cannot see it. */
  draw(label) {
    const highest = Math.max(1e-9, ...this.values);
    const svg = document.createElementNS(SVG, "svg");
    svg.setAttribute("class", "trend");
    svg.setAttribute("viewBox", `0 0 ${WIDTH} ${HEIGHT}`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.setAttribute("aria-label", `${label}: now ${quantity(this.values.at(-1))}, at most ${quantity(highest)}`);
    const line = document.createElementNS(SVG, "polyline");
    line.setAttribute("points", this.points(highest));
    svg.append(line);
    return element("div", { class: "trend-box" }, element("p", { class: "hint", "aria-hidden": "true" }, `${label}, last minutes; at most ${quantity(highest)}`), svg);
  }

  points(highest) {
    const step = WIDTH / (MAX_POINTS - 1);
    const first = MAX_POINTS - this.values.length;
    return this.values
      .map((value, i) => `${((first + i) * step).toFixed(1)},${(HEIGHT - 2 - (value / highest) * (HEIGHT - 4)).toFixed(1)}`)
      .join(" ");
  }
}
