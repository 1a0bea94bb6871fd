// The figures at the top of a model: a name and a number each.

import { element } from "./dom.mjs";

/** `figures` are [name, value, explanation]. */
export function figuresElement(figures) {
  return element(
    "dl",
    { class: "figures" },
    ...figures.map(([name, value, title]) =>
      element("div", { class: "figure", title }, element("dt", {}, name), element("dd", {}, value)),
    ),
  );
}
