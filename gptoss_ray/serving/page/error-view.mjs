// An error of the server: what it says, what can be done, and a button that tries again.

import { element, icon, textButton } from "./dom.mjs";

/** `error` is {message, remedy}, plain data; `onRetry` may be missing. */
export function errorElement({ message, remedy }, onRetry) {
  return element(
    "div",
    { class: "error", role: "alert" },
    icon("failed"),
    element("div", {}, element("p", { class: "error-message" }, message), element("p", {}, remedy)),
    onRetry && textButton("Retry", onRetry),
  );
}
