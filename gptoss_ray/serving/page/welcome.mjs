// What stands where no conversation is yet: questions to begin with.

import { byId, element } from "./dom.mjs";
import { examplesFor } from "./examples.mjs";

export class Welcome {
  constructor(onExample) {
    this.root = byId("welcome");
    this.title = byId("welcome-title");
    this.list = byId("examples");
    this.onExample = onExample;
    this.model = null;
  }

  update(model, isShown) {
    this.root.hidden = !isShown;
    if (this.model === model) return;
    this.model = model;
    this.title.textContent = model ? `What would you ask ${model}?` : "What would you ask?";
    this.list.replaceChildren(...examplesFor(model).map((example) => this.item(example)));
  }

  item(example) {
    const { title, text } = example;
    const button = element(
      "button",
      { type: "button", class: "example", onclick: () => this.onExample(example) },
      element("span", { class: "example-title" }, title),
      element("span", {}, text),
    );
    return element("li", {}, button);
  }
}
