// Markdown as words, for a screen reader: no marks, and no code.

import { parseBlocks } from "./markdown-blocks.mjs";

/** Return what a text says; a piece of an answer will do. */
export function plainText(markdown) {
  return parseBlocks(markdown).map(blockText).filter(Boolean).join(" ");
}

function blockText(block) {
  switch (block.type) {
    case "code":
      return "Code.";
    case "rule":
      return "";
    case "quote":
      return block.blocks.map(blockText).join(" ");
    case "list":
      return block.items.map((blocks) => blocks.map(blockText).join(" ")).join(" ");
    case "table":
      return [block.header, ...block.rows].map((row) => row.map(inlineText).join(", ")).join(". ");
    default:
      return inlineText(block.inline);
  }
}

function inlineText(nodes) {
  return nodes.map((node) => (node.children ? inlineText(node.children) : (node.text ?? " "))).join("");
}
