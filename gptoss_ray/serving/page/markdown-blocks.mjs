// Markdown as a list of blocks, plain objects with their `source`:
// {type: "paragraph", inline}, {type: "heading", level, inline}, {type: "code", language, text}, {type: "rule"},
// {type: "quote", blocks}, {type: "list", isOrdered, start, isTight, items: [blocks]},
// {type: "table", alignments, header: [inline], rows: [[inline]]}.
//
// What models write: CommonMark's and GitHub's common forms. HTML is text.

import { parseInline } from "./markdown-inline.mjs";

const MAX_DEPTH = 8;
const MAX_COLUMNS = 32;
const FENCE = /^ {0,3}(`{3,}|~{3,})[ \t]*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]|$)/;
const RULE = /^ {0,3}([-*_])(?:[ \t]*\1){2,}[ \t]*$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( {0,3})([-*+]|\d{1,9}[.)])(?:([ \t]+)|$)/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;

/** Parse markdown; `depth` is how many quotes and lists stand around it. */
export function parseBlocks(text, depth = 0) {
  return parseLines(text.replace(/\r\n?/g, "\n").split("\n"), depth);
}

function parseLines(lines, depth) {
  const blocks = [];
  let at = 0;
  while (at < lines.length) {
    if (isBlank(lines[at])) {
      at += 1;
      continue;
    }
    const { block, end } = readBlock(lines, at, depth);
    blocks.push({ ...block, source: lines.slice(at, end).join("\n") });
    at = end;
  }
  return blocks;
}

function readBlock(lines, at, depth) {
  const line = lines[at];
  if (FENCE.test(line)) return readCode(lines, at);
  if (HEADING.test(line)) return { block: heading(line), end: at + 1 };
  if (RULE.test(line)) return { block: { type: "rule" }, end: at + 1 };
  if (depth < MAX_DEPTH && QUOTE.test(line)) return readQuote(lines, at, depth);
  if (depth < MAX_DEPTH && ITEM.test(line)) return readList(lines, at, depth);
  if (startsTable(lines, at)) return readTable(lines, at);
  return readParagraph(lines, at, depth);
}

function isBlank(line) {
  return line.trim() === "";
}

function indentOf(line) {
  return line.length - line.trimStart().length;
}

/** Whether a line ends the paragraph above it. */
function interrupts(lines, at, depth) {
  const line = lines[at];
  if (isBlank(line) || FENCE.test(line) || HEADING.test(line) || RULE.test(line)) return true;
  if (startsTable(lines, at)) return true;
  return depth < MAX_DEPTH && (QUOTE.test(line) || /^ {0,3}(?:[-*+]|1[.)])[ \t]+\S/.test(line));
}

function readParagraph(lines, at, depth) {
  let end = at + 1;
  while (end < lines.length && !interrupts(lines, end, depth)) end += 1;
  const text = lines.slice(at, end).map((line) => line.trimStart());
  return { block: { type: "paragraph", inline: parseInline(text.join("\n").trimEnd()) }, end };
}

function heading(line) {
  const [marks, { length }] = [line.trim(), HEADING.exec(line)[1]];
  const text = marks.slice(length).trim();
  const isClosed = /(?:^|[ \t])#{1,99}$/.test(text);
  return { type: "heading", level: length, inline: parseInline(isClosed ? text.replace(/#{1,99}$/, "").trim() : text) };
}

function readCode(lines, at) {
  const [, fence, info] = FENCE.exec(lines[at]);
  const indent = indentOf(lines[at]);
  const isEnd = (line) => {
    const text = line.trim();
    return text.length >= fence.length && text === fence[0].repeat(text.length);
  };
  let end = at + 1;
  while (end < lines.length && !isEnd(lines[end])) end += 1;
  const text = lines.slice(at + 1, end).map((line) => line.slice(Math.min(indent, indentOf(line))));
  const language = info
    .trim()
    .split(/[\s{,]/)[0]
    .slice(0, 32);
  return { block: { type: "code", language, text: text.join("\n") }, end: Math.min(end + 1, lines.length) };
}

function readQuote(lines, at, depth) {
  let end = at;
  while (end < lines.length && QUOTE.test(lines[end])) end += 1;
  const inside = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
  return { block: { type: "quote", blocks: parseLines(inside, depth + 1) }, end };
}

function readList(lines, at, depth) {
  const first = marker(lines[at]);
  const items = [];
  let isTight = true;
  let end = at;
  for (;;) {
    const item = readItem(lines, end, depth);
    items.push(parseLines(item.lines, depth + 1));
    isTight &&= !item.hasGap;
    end = item.end;
    const next = firstNotBlank(lines, end);
    const isSibling = next < lines.length && marker(lines[next])?.kind === first.kind && !RULE.test(lines[next]);
    if (!isSibling) break;
    isTight &&= next === end;
    end = next;
  }
  return { block: { type: "list", isOrdered: first.start !== null, start: first.start, isTight, items }, end };
}

/** What begins an item: its kind ("-", "." …), number, and the width of what stands before its text. */
function marker(line) {
  const match = ITEM.exec(line);
  if (!match) return null;
  const [, indent, mark, gap = " "] = match;
  const spaces = gap.length > 4 ? 1 : gap.length;
  const number = Number.parseInt(mark, 10);
  return {
    kind: mark.at(-1),
    start: Number.isNaN(number) ? null : number,
    width: indent.length + mark.length + spaces,
  };
}

function firstNotBlank(lines, at) {
  let next = at;
  while (next < lines.length && isBlank(lines[next])) next += 1;
  return next;
}

/** Read an item's lines, without their indent; models indent by less than CommonMark asks for. */
function readItem(lines, at, depth) {
  const { width } = marker(lines[at]);
  const inside = [lines[at].slice(width)];
  let hasGap = false;
  let end = at + 1;
  while (end < lines.length) {
    const next = firstNotBlank(lines, end);
    if (next === lines.length) break;
    const isInside = indentOf(lines[next]) >= Math.min(width, 2);
    const isLazy = next === end && !isInside && !marker(lines[next]) && !interrupts(lines, next, depth);
    if (!isInside && !isLazy) break;
    hasGap ||= next > end;
    for (; end < next; end += 1) inside.push("");
    inside.push(lines[next].slice(Math.min(width, indentOf(lines[next]))));
    end = next + 1;
  }
  return { lines: inside, hasGap, end };
}

function startsTable(lines, at) {
  return (
    lines[at].includes("|") && at + 1 < lines.length && lines[at + 1].includes("-") && TABLE_RULE.test(lines[at + 1])
  );
}

function readTable(lines, at) {
  let end = at + 2;
  while (end < lines.length && lines[end].includes("|")) end += 1;
  const alignments = cells(lines[at + 1]).map(alignment);
  const [header, ...rows] = [lines[at], ...lines.slice(at + 2, end)].map((line) =>
    cells(line).slice(0, alignments.length).map(parseInline),
  );
  return { block: { type: "table", alignments, header, rows }, end };
}

function cells(line) {
  const text = line
    .trim()
    .replace(/^\|/, "")
    .replace(/(?<!\\)\|$/, "");
  return text.split(/(?<!\\)\|/, MAX_COLUMNS).map((cell) => cell.replaceAll("\\|", "|").trim());
}

function alignment(rule) {
  if (rule.endsWith(":")) return rule.startsWith(":") ? "center" : "right";
  return rule.startsWith(":") ? "left" : null;
}
