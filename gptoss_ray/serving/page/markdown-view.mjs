// Markdown on the screen. While it grows, only the blocks that changed are made anew.

import { copyButton } from "./copy-button.mjs";
import { element } from "./dom.mjs";
import { parseBlocks } from "./markdown-blocks.mjs";

// The page's own headings are of the first two levels.
const HEADINGS = ["h3", "h4", "h5", "h6", "h6", "h6"];

export class MarkdownView {
  constructor() {
    this.root = element("div", { class: "markdown", dir: "auto" });
    this.sources = [];
  }

  update(text) {
    const blocks = parseBlocks(text);
    const isSame = (block, index) => this.sources[index] === `${block.type} ${block.source}`;
    const changed = blocks.findIndex((block, index) => !isSame(block, index));
    const first = changed < 0 ? blocks.length : changed;
    while (this.root.childElementCount > first) this.root.lastElementChild.remove();
    this.root.append(...blocks.slice(first).map(blockElement));
    this.sources = blocks.map((block) => `${block.type} ${block.source}`);
  }
}

function blockElement(block) {
  switch (block.type) {
    case "heading":
      return element(HEADINGS[block.level - 1], {}, ...inlineNodes(block.inline));
    case "code":
      return codeElement(block);
    case "rule":
      return element("hr");
    case "quote":
      return element("blockquote", {}, ...block.blocks.map(blockElement));
    case "list":
      return listElement(block);
    case "table":
      return tableElement(block);
    default:
      return element("p", {}, ...inlineNodes(block.inline));
  }
}

function codeElement({ language, text }) {
  const label = language ? `Code, ${language}` : "Code";
  const head = element(
    "div",
    { class: "code-head" },
    element("span", {}, language || "code"),
    copyButton("Copy code", () => text),
  );
  // It scrolls, so it takes the focus: the keyboard must reach all of it.
  const body = element("pre", { tabindex: "0", role: "group", "aria-label": label }, element("code", {}, text));
  return element("div", { class: "code", dir: "ltr" }, head, body);
}

function listElement({ isOrdered, start, isTight, items }) {
  const attributes = { class: isTight && "tight", start: isOrdered && start !== 1 && String(start) };
  const made = items.map((blocks) => element("li", {}, ...blocks.map(blockElement)));
  return element(isOrdered ? "ol" : "ul", attributes, ...made);
}

function tableElement({ alignments, header, rows }) {
  const row = (name, cells) =>
    element("tr", {}, ...cells.map((inline, column) => cell(name, inline, alignments[column])));
  const table = element(
    "table",
    {},
    element("thead", {}, row("th", header)),
    element("tbody", {}, ...rows.map((cells) => row("td", cells))),
  );
  return element("div", { class: "table", tabindex: "0", role: "group", "aria-label": "Table" }, table);
}

function cell(name, inline, alignment) {
  return element(name, { class: alignment && `align-${alignment}` }, ...inlineNodes(inline));
}

function inlineNodes(nodes) {
  return nodes.map(inlineNode);
}

function inlineNode(node) {
  switch (node.type) {
    case "code":
      return element("code", {}, node.text);
    case "break":
      return element("br");
    case "strong":
    case "em":
      return element(node.type, {}, ...inlineNodes(node.children));
    case "strike":
      return element("s", {}, ...inlineNodes(node.children));
    case "link":
      return linkElement(node);
    default:
      return document.createTextNode(node.text);
  }
}

/** The title tells where a link really leads, whatever it says. */
function linkElement({ href, children }) {
  const attributes = { href, title: href, target: "_blank", rel: "noopener noreferrer nofollow" };
  return element("a", attributes, ...inlineNodes(children));
}
