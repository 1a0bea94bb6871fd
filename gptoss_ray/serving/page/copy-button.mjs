// A button that copies a text and says that it did.

import { announce } from "./announcer.mjs";
import { copy } from "./clipboard.mjs";
import { icon, iconButton } from "./dom.mjs";

const SHOWN_MS = 1600;

/** `text` returns what to copy at that moment. */
export function copyButton(label, text) {
  const button = iconButton("copy", label, async () => {
    const isCopied = await copy(text());
    announce(isCopied ? "Copied." : "The browser does not allow copying.");
    button.replaceChildren(icon(isCopied ? "done" : "failed"));
    setTimeout(() => button.replaceChildren(icon("copy")), SHOWN_MS);
  });
  return button;
}
