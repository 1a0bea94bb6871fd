// What a screen reader is told, in pieces it can say: whole sentences, and not more often than it can speak.

import { byId, element } from "./dom.mjs";
import { plainText } from "./plain-text.mjs";
import { endOfSentences } from "./sentences.mjs";

const INTERVAL_MS = 2500;
const MAX_KEPT = 12;

/** Say something once. */
export function announce(text) {
  const region = byId("announcements");
  region.append(element("p", {}, text));
  while (region.childElementCount > MAX_KEPT) region.firstElementChild.remove();
}

/** Follows an answer as it grows. */
export class AnswerReader {
  constructor() {
    this.numSaid = 0;
    this.saidMs = 0;
  }

  /** Say the sentences that are new, unless the last ones were just said. */
  update(content, nowMs) {
    if (nowMs - this.saidMs < INTERVAL_MS) return;
    const end = this.numSaid + endOfSentences(content.slice(this.numSaid));
    if (end === this.numSaid) return;
    this.say(content, end);
    this.saidMs = nowMs;
  }

  /** Say the rest. */
  finish(content) {
    this.say(content, content.length);
  }

  say(content, end) {
    const text = plainText(content.slice(this.numSaid, end));
    this.numSaid = end;
    if (text.trim()) announce(text);
  }
}
