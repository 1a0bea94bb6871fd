// An answer: reasoning, content, calls, figures, and what can be done with it.

import { figures } from "./answer.mjs";
import { CallView } from "./call-view.mjs";
import { copyButton } from "./copy-button.mjs";
import { element, iconButton, spoken } from "./dom.mjs";
import { errorElement } from "./error-view.mjs";
import { MarkdownView } from "./markdown-view.mjs";
import { ReasoningView } from "./reasoning-view.mjs";

export class AnswerView {
  constructor(entry, handlers) {
    this.entry = entry;
    this.handlers = handlers;
    this.reasoning = new ReasoningView(handlers.opensReasoning());
    this.markdown = new MarkdownView();
    this.calls = [];
    this.callList = element("div", { class: "calls" });
    this.waiting = element("p", { class: "waiting" }, spoken("Waiting for the first token"));
    this.note = element("p", { class: "note" });
    this.error = element("div", { class: "error-place" });
    this.figures = element("p", { class: "figures" });
    this.copyButton = copyButton("Copy answer", () => entry.content);
    this.actions = element(
      "div",
      { class: "actions" },
      this.copyButton,
      iconButton("retry", "Regenerate answer", () => handlers.onRegenerate(entry)),
    );
    const foot = element("div", { class: "foot" }, this.actions, this.figures);
    this.root = element(
      "li",
      { class: "answer" },
      spoken(entry.model, "h2"),
      this.reasoning.root,
      this.waiting,
      this.markdown.root,
      this.callList,
      this.note,
      this.error,
      foot,
    );
  }

  update(isLive) {
    const { entry } = this;
    this.root.classList.toggle("is-live", isLive);
    this.root.setAttribute("aria-busy", String(isLive));
    this.reasoning.update(entry, isLive);
    this.markdown.update(entry.content);
    this.updateCalls(isLive);
    this.waiting.hidden = !isLive || entry.times.firstMs !== null;
    this.note.textContent = isLive ? "" : noteOf(entry);
    this.figures.textContent = isLive && entry.times.reasonedMs === null ? "" : figures(entry).join(" · ");
    this.actions.hidden = isLive || entry.error !== null;
    this.copyButton.hidden = entry.content === "";
    if (entry.error && !this.error.hasChildNodes()) {
      this.error.append(errorElement(entry.error, () => this.handlers.onRegenerate(entry)));
    }
  }

  updateCalls(isLive) {
    this.entry.calls.forEach((call, index) => {
      if (!this.calls[index]) {
        this.calls[index] = new CallView(this.handlers.onResult);
        this.callList.append(this.calls[index].root);
      }
      this.calls[index].update(call, isLive);
    });
    while (this.calls.length > this.entry.calls.length) this.calls.pop().root.remove();
  }

  /** Go to the first call that waits for its result. */
  focusCall() {
    this.calls.find((_, index) => this.entry.calls[index].result === null)?.focus();
  }
}

function noteOf({ isStopped, finishReason }) {
  if (isStopped) return "Stopped.";
  if (finishReason === "length") return "Cut off: the answer has reached its token limit.";
  return "";
}
