// A function call: its name, its arguments, and its result, or a place to type it.

import { element, icon, textButton } from "./dom.mjs";
import { prettyArguments, sampleResult } from "./functions.mjs";
import { growingTextarea, sendsOnEnter } from "./text-area.mjs";

export class CallView {
  constructor(onResult) {
    this.onResult = onResult;
    this.name = element("code", {});
    this.text = element("code", {});
    this.outcome = element("div", { class: "call-outcome" });
    this.root = element(
      "section",
      { class: "call" },
      element("h3", { class: "call-head" }, icon("call"), element("span", {}, "Calls "), this.name),
      element("pre", { tabindex: "0", role: "group", "aria-label": "Arguments" }, this.text),
      this.outcome,
    );
    this.shown = null;
  }

  update(call, isWriting) {
    this.name.textContent = call.name;
    this.text.textContent = isWriting ? call.arguments : prettyArguments(call.arguments);
    const wanted = isWriting ? "writing" : call.result === null ? "form" : "result";
    if (wanted === this.shown) return;
    this.shown = wanted;
    if (wanted === "writing") this.outcome.replaceChildren();
    else this.outcome.replaceChildren(wanted === "form" ? this.form(call) : resultElement(call));
  }

  form(call) {
    const id = `result-${call.id}`;
    const area = growingTextarea({ id, rows: "2", placeholder: "What the function returns, as JSON or text" });
    area.value = sampleResult(call);
    const send = () => this.onResult(call, area.value);
    sendsOnEnter(area, send);
    return element(
      "div",
      { class: "call-form" },
      element("label", { for: id }, `Result of ${call.name}`),
      area,
      textButton("Send result", send, { class: "button is-primary" }),
    );
  }

  focus() {
    this.outcome.querySelector("textarea")?.focus();
  }
}

function resultElement(call) {
  return element(
    "div",
    {},
    element("h4", { class: "call-label" }, "Result"),
    element(
      "pre",
      { tabindex: "0", role: "group", "aria-label": "Result" },
      element("code", {}, prettyArguments(call.result)),
    ),
  );
}
