// Inline markdown as plain objects: {type: "text" | "code", text}, {type: "break"},
// {type: "strong" | "em" | "strike", children}, {type: "link", href, children}.
//
// Nothing here makes markup: the view makes elements of these types and no others. HTML is text. An image is a link
// to it, since fetching it would tell a stranger that it was read. Every text is read in linear time.

const SCHEMES = new Set(["https:", "http:", "mailto:"]);
const MAX_NESTING = 16;
const PUNCTUATION = /[!-/:-@[-`{-~\p{P}\p{S}]/u;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const ANGLED = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2048})>/y;
const BARE = /https?:\/\/[^\s<>"`]{1,2048}/y;
const TARGET =
  /\([ \n]{0,9}(?:<([^<>\n]{0,2048})>|([^\s()<>]{1,2048}(?:\([^\s()<>]{0,2048}\)[^\s()<>]{0,2048}){0,9}))(?:[ \n]{1,9}(?:"[^"]{0,512}"|'[^']{0,512}'))?[ \n]{0,9}\)/y;
// What is neither of these is plain text up to the next of them.
const PLAIN = /[^\\`<*_~[\]!\nh]+/y;

/** Return the address if a link may lead there, else null: absolute, of a harmless scheme. */
export function safeHref(address) {
  try {
    const url = new URL(address);
    return SCHEMES.has(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

/** Parse the inline markup of a paragraph, a heading or a cell. */
export function parseInline(text) {
  return new InlineParser(text).parse();
}

class InlineParser {
  constructor(text) {
    this.text = text;
    this.at = 0;
    this.tokens = [];
    this.brackets = [];
    this.fences = backtickRuns(text);
  }

  parse() {
    while (this.at < this.text.length) this.step();
    return emphasized(this.tokens);
  }

  step() {
    const char = this.text[this.at];
    if (char === "\\") this.escape();
    else if (char === "`") this.code();
    else if (char === "*" || char === "_" || char === "~") this.delimiter(char);
    else if (char === "[" || (char === "!" && this.text[this.at + 1] === "[")) this.openBracket(char);
    else if (char === "]") this.closeBracket();
    else if (char === "\n") this.newline();
    else if (!this.address(char)) this.plain();
  }

  match(pattern) {
    pattern.lastIndex = this.at;
    return pattern.exec(this.text);
  }

  add(text, length = text.length) {
    const last = this.tokens.at(-1);
    if (last?.type === "text") last.text += text;
    else this.tokens.push({ type: "text", text });
    this.at += length;
  }

  plain() {
    this.add(this.match(PLAIN)?.[0] ?? this.text[this.at]);
  }

  escape() {
    const next = this.text[this.at + 1] ?? "";
    if (next === "\n") {
      this.tokens.push({ type: "break" });
      this.at += 2;
    } else if (ESCAPABLE.test(next)) {
      this.add(next, 2);
    } else {
      this.add("\\");
    }
  }

  code() {
    const size = runLength(this.text, this.at);
    const end = this.fences.next(size, this.at + size);
    if (end < 0) return this.add("`".repeat(size));
    const inside = this.text.slice(this.at + size, end).replaceAll("\n", " ");
    const isPadded = inside.startsWith(" ") && inside.endsWith(" ") && inside.trim() !== "";
    this.tokens.push({ type: "code", text: isPadded ? inside.slice(1, -1) : inside });
    this.at = end + size;
  }

  delimiter(char) {
    const size = runLength(this.text, this.at);
    const run = char.repeat(size);
    if (char === "~" ? size !== 2 : size > 3) return this.add(run);
    const before = this.text[this.at - 1] ?? " ";
    const after = this.text[this.at + size] ?? " ";
    const isLeft = isFlanking(after, before);
    const isRight = isFlanking(before, after);
    const isWord = char === "_";
    this.tokens.push({
      type: "delimiter",
      char,
      size,
      canOpen: isLeft && (!isWord || !isRight || PUNCTUATION.test(before)),
      canClose: isRight && (!isWord || !isLeft || PUNCTUATION.test(after)),
    });
    this.at += size;
  }

  openBracket(char) {
    this.brackets.push(this.tokens.length);
    const opening = char === "!" ? "![" : "[";
    this.tokens.push({ type: "bracket", text: opening });
    this.at += opening.length;
  }

  closeBracket() {
    const start = this.brackets.pop();
    this.at += 1;
    const target = start === undefined ? null : this.match(TARGET);
    const href = target && safeHref(target[1] ?? target[2]);
    if (!href) return this.add("]", 0);
    const children = withoutLinks(emphasized(this.tokens.splice(start).slice(1)));
    this.tokens.push(link(href, children));
    this.at += target[0].length;
    // Links do not nest: what was opened before stays text.
    this.brackets = [];
  }

  address(char) {
    if (char === "<") return this.angled();
    return char === "h" && !/[\p{L}\p{N}]/u.test(this.text[this.at - 1] ?? " ") && this.bare();
  }

  angled() {
    const match = this.match(ANGLED);
    const href = match && safeHref(match[1]);
    if (!href) return false;
    this.tokens.push(link(href, [{ type: "text", text: match[1] }]));
    this.at += match[0].length;
    return true;
  }

  bare() {
    const match = this.match(BARE);
    const address = match && withoutTail(match[0]);
    const href = address && safeHref(address);
    if (!href) return false;
    this.tokens.push(link(href, [{ type: "text", text: address }]));
    this.at += address.length;
    return true;
  }

  newline() {
    const isBreak = this.text[this.at - 1] === " " && this.text[this.at - 2] === " ";
    if (isBreak) this.tokens.push({ type: "break" });
    else this.add("\n", 0);
    this.at += 1;
  }
}

function link(href, children) {
  return { type: "link", href, children };
}

function runLength(text, start) {
  let end = start;
  while (text[end] === text[start]) end += 1;
  return end - start;
}

/** Where runs of backticks start, by their length; asked for ever later places, it forgets the earlier ones. */
function backtickRuns(text) {
  const starts = new Map();
  for (const { 0: run, index } of text.matchAll(/`+/g)) {
    if (!starts.has(run.length)) starts.set(run.length, { places: [], first: 0 });
    starts.get(run.length).places.push(index);
  }
  return {
    next(size, from) {
      const runs = starts.get(size);
      while (runs.places[runs.first] < from) runs.first += 1;
      return runs.places[runs.first] ?? -1;
    },
  };
}

/** Whether a run of delimiters clings to the text on one side (CommonMark's flanking). */
function isFlanking(near, far) {
  if (/\s/.test(near)) return false;
  return !PUNCTUATION.test(near) || /\s/.test(far) || PUNCTUATION.test(far);
}

/** Drop what ends a sentence rather than an address, and a bracket that was opened before it. */
function withoutTail(address) {
  let end = address.length;
  for (; end > 0; end -= 1) {
    const last = address[end - 1];
    if (last === ")") {
      const inside = address.slice(0, end);
      if (inside.split("(").length >= inside.split(")").length) break;
    } else if (!/[.,:;!?*_~'\]}]/.test(last)) {
      break;
    }
  }
  return address.slice(0, end);
}

/** Replace links by what they say. */
function withoutLinks(nodes) {
  return nodes.flatMap((node) => {
    if (node.type === "link") return node.children;
    return node.children ? [{ ...node, children: withoutLinks(node.children) }] : [node];
  });
}

/** Pair delimiters: each closes an open one of its kind; what stays open is text. */
function emphasized(tokens) {
  const frames = [{ delimiter: null, nodes: [] }];
  const numOpen = { "*": 0, _: 0, "~": 0 };
  for (const token of tokens) {
    if (token.type === "delimiter") pair(frames, numOpen, token);
    else frames.at(-1).nodes.push(token.type === "bracket" ? { type: "text", text: token.text } : token);
  }
  unwindTo(frames, numOpen, 0);
  return frames[0].nodes;
}

function pair(frames, numOpen, { char, size, canOpen, canClose }) {
  let left = size;
  while (canClose && left > 0 && numOpen[char] > 0) {
    unwindTo(frames, numOpen, partner(frames, char, left));
    left -= close(frames, numOpen, char, left);
  }
  if (left === 0) return;
  if (canOpen && frames.length <= MAX_NESTING) {
    frames.push({ delimiter: { char, size: left }, nodes: [] });
    numOpen[char] += 1;
  } else {
    frames.at(-1).nodes.push({ type: "text", text: char.repeat(left) });
  }
}

/** Return the innermost open frame of this kind: of the same size where there is one. */
function partner(frames, char, size) {
  const same = frames.findLastIndex(({ delimiter }) => delimiter?.char === char && delimiter.size === size);
  return same >= 0 ? same : frames.findLastIndex(({ delimiter }) => delimiter?.char === char);
}

/** Close the innermost frame with as many delimiters as both sides have, two at most; return how many. */
function close(frames, numOpen, char, available) {
  const frame = frames.at(-1);
  const used = Math.min(2, available, frame.delimiter.size);
  const type = char === "~" ? "strike" : used === 2 ? "strong" : "em";
  const node = { type, children: frame.nodes };
  frame.delimiter.size -= used;
  if (frame.delimiter.size > 0) {
    frame.nodes = [node];
  } else {
    frames.pop();
    numOpen[char] -= 1;
    frames.at(-1).nodes.push(node);
  }
  return used;
}

/** Make text of the delimiters of all frames above one. */
function unwindTo(frames, numOpen, index) {
  const target = frames[index];
  for (const { delimiter, nodes } of frames.splice(index + 1)) {
    numOpen[delimiter.char] -= 1;
    target.nodes.push({ type: "text", text: delimiter.char.repeat(delimiter.size) });
    for (const node of nodes) target.nodes.push(node);
  }
}
