import assert from "node:assert/strict";
import { test } from "node:test";

import { parseBlocks } from "../../../gptoss_ray/serving/page/markdown-blocks.mjs";
import { parseInline, safeHref } from "../../../gptoss_ray/serving/page/markdown-inline.mjs";
import { plainText } from "../../../gptoss_ray/serving/page/plain-text.mjs";

const TAGS = { strong: "b", em: "i", strike: "s" };

/** Inline nodes in a short notation: (b …), (i …), (s …), (code …), (a href …), (br). */
function inline(nodes) {
  return nodes.map(inlineNode).join("");
}

function inlineNode(node) {
  if (node.type === "text") return node.text;
  if (node.type === "break") return "(br)";
  if (node.type === "code") return `(code ${node.text})`;
  if (node.type === "link") return `(a ${node.href} ${inline(node.children)})`;
  return `(${TAGS[node.type]} ${inline(node.children)})`;
}

function block(node) {
  const inside = (blocks) => blocks.map(block).join(" ");
  switch (node.type) {
    case "paragraph":
      return `(p ${inline(node.inline)})`;
    case "heading":
      return `(h${node.level} ${inline(node.inline)})`;
    case "code":
      return `(pre ${node.language}|${node.text})`;
    case "rule":
      return "(hr)";
    case "quote":
      return `(quote ${inside(node.blocks)})`;
    case "list":
      return `(${node.isOrdered ? `ol ${node.start}` : "ul"}${node.isTight ? "" : " loose"} ${node.items.map((item) => `[${inside(item)}]`).join("")})`;
    default: {
      const row = (cells) => cells.map(inline).join("|");
      return `(table ${node.alignments.map((a) => a ?? "-").join(",")} ${[node.header, ...node.rows].map(row).join(" / ")})`;
    }
  }
}

function sameInline(cases) {
  for (const [text, expected] of cases) assert.equal(inline(parseInline(text)), expected, text);
}

function sameBlocks(cases) {
  for (const [text, expected] of cases) assert.equal(parseBlocks(text).map(block).join(" "), expected, text);
}

test("emphasis pairs as people mean it", () => {
  sameInline([
    ["a **b** *c* ~~d~~ __e__ _f_", "a (b b) (i c) (s d) (b e) (i f)"],
    ["***a***", "(i (b a))"],
    ["**a *b* c**", "(b a (i b) c)"],
    ["snake_case_name and 2 * 3 * 4", "snake_case_name and 2 * 3 * 4"],
    ["**open", "**open"],
    ["a* b*", "a* b*"],
    ["*a **b*", "(i a **b)"],
    ["**a* b", "*(i a) b"],
    ["~a~ ****b****", "~a~ ****b****"],
    ["**Größe:** 5", "(b Größe:) 5"],
    ["", ""],
  ]);
});

test("code is code, whatever is in it", () => {
  sameInline([
    ["`a*b*` ``c ` d``", "(code a*b*) (code c ` d)"],
    ["` `` `", "(code ``)"],
    ["`open *a*", "`open (i a)"],
    ["`<b>`", "(code <b>)"],
    ["*a `*` b*", "(i a (code *) b)"],
    ["`a\nb`", "(code a b)"],
  ]);
});

test("lines break where they were meant to", () => {
  sameInline([
    ["a  \nb", "a  (br)b"],
    ["a\\\nb", "a(br)b"],
    ["a\nb", "a\nb"],
    ["\\*a\\* \\a \\", "*a* \\a \\"],
  ]);
});

test("links lead to web pages and mailboxes alone", () => {
  sameInline([
    ["[a](https://e.org/x)", "(a https://e.org/x a)"],
    ['[a *b*](<https://e.org/x> "title")', "(a https://e.org/x a (i b))"],
    ["[a](https://e.org/a_(b))", "(a https://e.org/a_(b) a)"],
    ["[a](mailto:a@e.org)", "(a mailto:a@e.org a)"],
    ["<https://e.org>", "(a https://e.org/ https://e.org)"],
    ["see https://e.org/a_b_c, ok", "see (a https://e.org/a_b_c https://e.org/a_b_c), ok"],
    ["(https://e.org/a)", "((a https://e.org/a https://e.org/a))"],
    ["xhttps://e.org", "xhttps://e.org"],
    ["[a]", "[a]"],
    ["[a] (https://e.org)", "[a] ((a https://e.org/ https://e.org))"],
    ["![i](https://e.org/i.png)", "(a https://e.org/i.png i)"],
    ["[![i](https://e.org/i.png)](https://e.org)", "[(a https://e.org/i.png i)]((a https://e.org/ https://e.org))"],
    ["[https://good.org](https://evil.org)", "(a https://evil.org/ https://good.org)"],
    ["**[a](https://e.org)**", "(b (a https://e.org/ a))"],
    ["[*a](https://e.org)*", "(a https://e.org/ *a)*"],
  ]);
});

const HOSTILE_ADDRESSES = [
  "javascript:alert(1)",
  "JaVaScRiPt:alert(1)",
  " javascript:alert(1)",
  "java\tscript:alert(1)",
  "java\nscript:alert(1)",
  "\u0001javascript:alert(1)",
  "data:text/html,<script>alert(1)</script>",
  "vbscript:x",
  "file:///etc/passwd",
  "blob:https://e.org/x",
  "ftp://e.org",
  "//e.org",
  "/v1/models",
  "page",
  "",
  "https://",
  "http:",
];

test("no other address becomes a link", () => {
  for (const address of HOSTILE_ADDRESSES) {
    assert.equal(safeHref(address), null, address);
    for (const text of [
      `[a](${address})`,
      `[a](<${address}>)`,
      `![a](${address})`,
      `<${address}>`,
      `[a](&#106;avascript:x)`,
    ]) {
      const links = JSON.stringify(parseInline(text)).match(/"href":"[^"]*"/g) ?? [];
      assert.ok(
        links.every((link) => /^"href":"(https?:\/\/|mailto:)/.test(link)),
        text,
      );
    }
  }
});

test("markup of HTML is text", () => {
  sameInline([
    ['<img src=x onerror="alert(1)">', '<img src=x onerror="alert(1)">'],
    ["<script>a</script>", "<script>a</script>"],
    ["&lt;b&gt; &amp;", "&lt;b&gt; &amp;"],
  ]);
  sameBlocks([["<div>\n\n# a\n</div>", "(p <div>) (h1 a) (p </div>)"]]);
});

test("blocks are told apart", () => {
  sameBlocks([
    ["# a #\n## b\n#c", "(h1 a) (h2 b) (p #c)"],
    ["a\nb\n\nc", "(p a\nb) (p c)"],
    ["---\n* * *\n___", "(hr) (hr) (hr)"],
    ["a\n---\nb", "(p a) (hr) (p b)"],
    ["> a\n> b\n>\n> > c\nd", "(quote (p a\nb) (quote (p c))) (p d)"],
    ["\r\na\r\n\r\nb", "(p a) (p b)"],
    ["", ""],
    ["\n \n", ""],
  ]);
});

test("fences hold code as it is, closed or not yet", () => {
  sameBlocks([
    ["```py\n# a\n\n  b\n```\nc", "(pre py|# a\n\n  b) (p c)"],
    ["~~~\n```\n~~~", "(pre |```)"],
    ["````\n```\n````", "(pre |```)"],
    ["```js\na", "(pre js|a)"],
    ["```", "(pre |)"],
    ["``` a`b", "(p ``` a`b)"],
    ["a\n```\nb\n```", "(p a) (pre |b)"],
    ["  ```\n  a\n    b\n  ```", "(pre |a\n  b)"],
  ]);
});

test("lists nest, also where models indent by two", () => {
  sameBlocks([
    ["- a\n- b", "(ul [(p a)][(p b)])"],
    ["3. a\n4. b", "(ol 3 [(p a)][(p b)])"],
    ["1. a\n  - b\n  - c\n2. d", "(ol 1 [(p a) (ul [(p b)][(p c)])][(p d)])"],
    ["- a\n\n- b", "(ul loose [(p a)][(p b)])"],
    ["- a\n\n  b\n- c", "(ul loose [(p a) (p b)][(p c)])"],
    ["- a\nlazy", "(ul [(p a\nlazy)])"],
    ["- a\n* b", "(ul [(p a)]) (ul [(p b)])"],
    ["- a\n\nb", "(ul [(p a)]) (p b)"],
    ["1. a\n\n   ```\n   x\n   ```\n2. b", "(ol 1 loose [(p a) (pre |x)][(p b)])"],
    ["text\n- a", "(p text) (ul [(p a)])"],
    ["text\n2. a", "(p text\n2. a)"],
    ["-", "(ul [])"],
    ["- ***", "(ul [(hr)])"],
  ]);
});

test("tables have columns, alignments and no more cells than their head", () => {
  sameBlocks([
    ["| a | b |\n|:--|--:|\n| 1 | `2` |\n| 3 |", "(table left,right a|b / 1|(code 2) / 3)"],
    ["a|b\n-|:-:\nc\\|d|e|f\ng", "(table -,center a|b / c|d|e) (p g)"],
    ["a | b\nc", "(p a | b\nc)"],
    ["text\n|a|\n|-|", "(p text) (table - a)"],
  ]);
});

test("no text is too deep, too long or too odd to be read", () => {
  const many = (text, times = 20_000) => text.repeat(times);
  const texts = [
    many(">"),
    many("- "),
    many("1. "),
    many("*a _b "),
    many("*a **b ") + many("** *"),
    many("["),
    many("[]("),
    many('[a](b "'),
    many("!["),
    many("<"),
    many("\\"),
    many("`a``"),
    many("|") + "\n" + many("|-"),
    many("a\n"),
    many("> - "),
    many("# "),
    many("https://a"),
    `https://a${many(")")}`,
    many(" \n"),
    many("~~a"),
    many("_a_b"),
    Array.from({ length: 2000 }, (_, index) => `${" ".repeat(index)}- a`).join("\n"),
    Array.from({ length: 500 }, (_, index) => "`".repeat(index + 1)).join(" "),
  ];
  for (const text of texts) {
    const blocks = parseBlocks(text);
    assert.ok(deepest(blocks) < 120, text.slice(0, 20));
    assert.equal(typeof plainText(text), "string");
  }
});

function deepest(value) {
  if (typeof value !== "object" || value === null) return 0;
  return 1 + Object.values(value).reduce((most, inside) => Math.max(most, deepest(inside)), 0);
}

test("every prefix of an answer is read, and blocks that are complete stay as they are", () => {
  const text =
    "# T\n\n1. *a*\n   - `b`\n\n```py\nx = [1]\n```\n\n|a|b|\n|-|-|\n|1|[c](https://e.org)|\n\n> end **b**\n";
  for (let end = 0; end <= text.length; end += 1) parseBlocks(text.slice(0, end));
  const sources = (part) => parseBlocks(part).map((one) => one.source);
  assert.deepEqual(sources(text.slice(0, 60)).slice(0, 2), sources(text).slice(0, 2));
});

test("spoken text has words and no marks", () => {
  assert.equal(
    plainText("# A\n\n- **b** `c`\n- [d](https://e.org)\n\n```\nx\n```\n|e|f|\n|-|-|\n|g|h|"),
    "A b c d Code. e, f. g, h",
  );
});
