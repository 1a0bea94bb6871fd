// The settings: a drawer whose fields write through to the settings object as they are typed.

import { byId, textButton } from "./dom.mjs";
import { SAMPLES, functionsState, withFunction } from "./functions.mjs";
import { DEFAULTS } from "./settings.mjs";
import { growsWithText } from "./text-area.mjs";

const FIELDS = ["instructions", "temperature", "maxTokens", "seed", "functions", "opensReasoning"];

export class SettingsPanel {
  /** `onChange` is called after each change; `keys` has the API key. */
  constructor(settings, { onChange, keys }) {
    Object.assign(this, { settings, onChange, keys });
    this.dialog = byId("settings");
    this.fields = Object.fromEntries(FIELDS.map((name) => [name, byId(`settings-${name}`)]));
    for (const name of FIELDS) this.fields[name].addEventListener("input", () => this.take(name));
    byId("settings-open").addEventListener("click", () => this.open());
    byId("settings-close").addEventListener("click", () => this.dialog.close());
    byId("settings-reset").addEventListener("click", () => this.reset());
    byId("key-forget").addEventListener("click", () => this.forgetKey());
    // A click on the backdrop has the dialog itself as its target.
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    byId("samples").append(...SAMPLES.map((sample) => this.sampleButton(sample)));
    growsWithText(this.fields.instructions);
    growsWithText(this.fields.functions);
    this.show();
  }

  open(field) {
    this.show();
    this.dialog.showModal();
    if (field) this.fields[field].focus();
  }

  /** Offer one more function; JSON that is being written and cannot be read yet is left alone. */
  addFunction(definition) {
    try {
      this.settings.functions = withFunction(this.settings.functions, definition);
    } catch {
      return this.showFunctions();
    }
    this.show();
    this.onChange();
  }

  sampleButton({ definition }) {
    return textButton(definition.name, () => this.addFunction(definition));
  }

  take(name) {
    const field = this.fields[name];
    this.settings[name] = field.type === "checkbox" ? field.checked : field.value;
    this.showFunctions();
    this.onChange();
  }

  reset() {
    const { model, effort } = this.settings;
    Object.assign(this.settings, DEFAULTS, { model, effort });
    this.show();
    this.onChange();
  }

  forgetKey() {
    this.keys.forget();
    this.show();
    this.fields.instructions.focus();
  }

  show() {
    for (const [name, field] of Object.entries(this.fields)) {
      if (field.type === "checkbox") field.checked = this.settings[name];
      else field.value = this.settings[name];
    }
    byId("key-kept").hidden = this.keys.key === "";
    this.showFunctions();
  }

  showFunctions() {
    const state = functionsState(this.settings.functions);
    const status = byId("functions-status");
    status.textContent = state.text;
    status.classList.toggle("is-wrong", state.isWrong);
    this.fields.functions.setAttribute("aria-invalid", String(state.isWrong));
  }
}
