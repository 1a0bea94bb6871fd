// A question: what was asked, with buttons to copy it and to ask something else in its place.

import { copyButton } from "./copy-button.mjs";
import { element, iconButton, spoken, textButton } from "./dom.mjs";
import { growingTextarea, sendsOnEnter } from "./text-area.mjs";

export class QuestionView {
  constructor(entry, { onEdit }) {
    this.entry = entry;
    this.onEdit = onEdit;
    this.root = element("li", { class: "question" });
    this.show();
  }

  update() {}

  show() {
    this.editButton = iconButton("edit", "Edit question", () => this.edit());
    this.root.replaceChildren(
      spoken("You", "h2"),
      element(
        "div",
        { class: "actions" },
        copyButton("Copy question", () => this.entry.text),
        this.editButton,
      ),
      element("div", { class: "bubble", dir: "auto" }, this.entry.text),
    );
  }

  edit() {
    const area = growingTextarea({ class: "edit-area", "aria-label": "Edit question", rows: "2" });
    area.value = this.entry.text;
    const send = () => area.value.trim() && this.onEdit(this.entry, area.value);
    const cancel = () => {
      this.show();
      this.editButton.focus();
    };
    sendsOnEnter(area, send);
    area.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      event.preventDefault();
      cancel();
    });
    const buttons = element(
      "div",
      { class: "edit-buttons" },
      textButton("Cancel", cancel),
      textButton("Ask again", send, { class: "button is-primary" }),
    );
    this.root.replaceChildren(spoken("You", "h2"), area, buttons);
    area.focus();
  }
}
