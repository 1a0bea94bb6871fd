// The choice of the model, from those that the server lists.

import { ApiError } from "./api.mjs";
import { byId, element } from "./dom.mjs";
import { errorElement } from "./error-view.mjs";
import { remedy } from "./remedy.mjs";

export class ModelSelect {
  /** `list` returns the names of the models. */
  constructor(settings, { list, onChange }) {
    Object.assign(this, { settings, list, onChange });
    this.select = byId("model");
    this.notice = byId("notice");
    this.select.addEventListener("change", () => this.choose(this.select.value));
  }

  async load() {
    this.notice.replaceChildren();
    try {
      this.show(await this.list());
    } catch (error) {
      if (!(error instanceof ApiError)) throw error;
      const shown = { message: error.message, remedy: remedy(error) };
      this.notice.replaceChildren(errorElement(shown, () => this.load()));
    }
  }

  show(names) {
    this.select.replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    this.choose(names.includes(this.settings.model) ? this.settings.model : names[0]);
  }

  choose(name) {
    this.select.value = name;
    this.select.disabled = false;
    this.settings.model = name;
    this.onChange();
  }
}
