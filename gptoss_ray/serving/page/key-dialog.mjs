// The API key: asked for when the server wants one, kept in sessionStorage, sent to this server alone.

import { ApiError } from "./api.mjs";
import { byId } from "./dom.mjs";
import { load, save } from "./store.mjs";

export class KeyDialog {
  constructor() {
    this.key = load("key", "");
    this.dialog = byId("key-dialog");
    this.field = byId("key");
    this.message = byId("key-message");
    byId("key-cancel").addEventListener("click", () => this.dialog.close("cancel"));
  }

  /** Run an action; where it answers 401, ask for a key and run it again, until the person gives up. */
  async withKey(action) {
    for (;;) {
      try {
        return await action();
      } catch (error) {
        const isRefused = error instanceof ApiError && error.status === 401;
        if (!isRefused || !(await this.ask(error.message))) throw error;
      }
    }
  }

  forget() {
    this.key = "";
    save("key", "");
  }

  /** Return whether a key was given; several that ask at once share one dialog. */
  ask(message) {
    this.asking ??= this.show(message).finally(() => (this.asking = null));
    return this.asking;
  }

  show(message) {
    this.message.textContent = message;
    this.field.value = "";
    this.dialog.returnValue = "";
    this.dialog.showModal();
    return new Promise((resolve) => {
      this.dialog.addEventListener("close", () => resolve(this.take()), { once: true });
    });
  }

  take() {
    const isGiven = this.dialog.returnValue === "save" && this.field.value.trim() !== "";
    if (isGiven) {
      this.key = this.field.value.trim();
      save("key", this.key);
    }
    this.field.value = "";
    return isGiven;
  }
}
