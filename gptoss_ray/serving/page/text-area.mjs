// Text boxes that grow with their text, and send it with Enter.

import { element } from "./dom.mjs";

/** Return a textarea as high as its text, up to the height that its style allows. */
export function growingTextarea(attributes) {
  const area = element("textarea", attributes);
  growsWithText(area);
  return area;
}

/** Make a textarea grow; the style does it where the browser can (`field-sizing`). */
export function growsWithText(area) {
  if (CSS.supports("field-sizing", "content")) return;
  const grow = () => {
    area.style.height = "auto";
    area.style.height = `${area.scrollHeight + 2}px`;
  };
  area.addEventListener("input", grow);
  requestAnimationFrame(grow);
}

/** Enter sends, Shift+Enter begins a new line; Enter that ends a word of an input method does neither. */
export function sendsOnEnter(area, send) {
  area.addEventListener("keydown", (event) => {
    if (event.key !== "Enter" || event.shiftKey || event.isComposing || event.keyCode === 229) return;
    event.preventDefault();
    send();
  });
}
