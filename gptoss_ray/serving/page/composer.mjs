// Where a person writes: the message box, effort, and the buttons that send and stop.

import { byId } from "./dom.mjs";
import { functionsState } from "./functions.mjs";
import { growsWithText, sendsOnEnter } from "./text-area.mjs";

export class Composer {
  constructor(settings, { onSend, onStop, onFunctions, onChange }) {
    Object.assign(this, { settings, onSend, onChange });
    this.form = byId("composer");
    this.area = byId("message");
    this.sendButton = byId("send");
    this.stopButton = byId("stop");
    this.functionsButton = byId("functions-open");
    this.isLive = false;
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.send();
    });
    this.stopButton.addEventListener("click", onStop);
    this.functionsButton.addEventListener("click", onFunctions);
    this.form.addEventListener("change", (event) => event.target.name === "effort" && this.takeEffort(event.target));
    this.area.addEventListener("input", () => this.showButtons());
    sendsOnEnter(this.area, () => this.send());
    growsWithText(this.area);
  }

  /** Send what is written; nothing while an answer comes, so that it is not lost. */
  send() {
    const text = this.area.value;
    if (this.isLive || !this.settings.model || !text.trim()) return;
    this.area.value = "";
    this.area.dispatchEvent(new Event("input"));
    this.onSend(text);
  }

  focus() {
    // It is always in sight.
    this.area.focus({ preventScroll: true });
  }

  /** Whether the person waits here, with nothing written. */
  get isIdle() {
    return document.activeElement === this.area && this.area.value === "";
  }

  takeEffort(input) {
    this.settings.effort = input.value;
    this.onChange();
  }

  update(isLive) {
    const hadFocus = document.activeElement === this.stopButton || document.activeElement === this.sendButton;
    this.isLive = isLive;
    for (const input of this.form.elements.effort) input.checked = input.value === this.settings.effort;
    const { num, isWrong } = functionsState(this.settings.functions);
    byId("functions-count").textContent = isWrong ? "!" : String(num);
    this.functionsButton.classList.toggle("is-on", num > 0 || isWrong);
    this.showButtons();
    // The button that had it is gone.
    if (hadFocus) this.focus();
  }

  showButtons() {
    this.sendButton.hidden = this.isLive;
    this.sendButton.disabled = !this.settings.model || this.area.value.trim() === "";
    this.stopButton.hidden = !this.isLive;
  }
}
