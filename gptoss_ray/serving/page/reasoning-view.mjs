// What the model thought, folded; open while it thinks where the person likes to watch.

import { seconds, thinkingS } from "./answer.mjs";
import { element, icon } from "./dom.mjs";

function thoughtFor(durationS) {
  return durationS < 0.1 ? "Thought for a moment" : `Thought for ${seconds(durationS)}`;
}

export class ReasoningView {
  constructor(opensLive) {
    this.label = element("span", {});
    this.text = element("div", { class: "reasoning-text", dir: "auto" });
    const summary = element("summary", { onclick: () => (this.isTouched = true) }, icon("chevron"), this.label);
    this.root = element("details", { class: "reasoning", hidden: true }, summary, this.text);
    this.opensLive = opensLive;
    this.isTouched = false;
  }

  /** Folds itself when the answer begins, unless the person has folded or unfolded it. */
  update(answer, isLive) {
    const isThinking = isLive && answer.times.reasonedMs === null;
    this.root.hidden = answer.reasoning === "";
    this.root.classList.toggle("is-live", isThinking);
    this.label.textContent = isThinking ? "Thinking…" : thoughtFor(thinkingS(answer));
    if (this.text.textContent !== answer.reasoning) this.text.textContent = answer.reasoning;
    if (!this.isTouched && this.opensLive) this.root.open = isThinking;
  }
}
