// The conversation: questions and answers in order, as plain data, and what of it the server is sent.

import { isWorthKeeping, newAnswer } from "./answer.mjs";

export const NO_RESULT = "No result was given.";

export class Conversation {
  constructor(entries = []) {
    this.entries = entries;
    this.nextId = 1 + Math.max(0, ...entries.map((entry) => entry.id));
  }

  get last() {
    return this.entries.at(-1);
  }

  /** Ask; calls that still wait for a result are told that there is none. */
  addQuestion(text) {
    for (const call of this.last?.calls ?? []) call.result ??= NO_RESULT;
    this.entries.push({ id: this.nextId++, kind: "question", text });
  }

  /** Begin the next answer. */
  addAnswer(model, nowMs) {
    const answer = newAnswer(this.nextId++, model, nowMs);
    this.entries.push(answer);
    return answer;
  }

  /** Forget an entry and all that came after it. */
  cutAt(id) {
    const index = this.entries.findIndex((entry) => entry.id === id);
    if (index >= 0) this.entries.length = index;
  }

  /** Return the messages of a request, behind the instructions where there are any. */
  messages(instructions) {
    const opening = instructions.trim() ? [{ role: "system", content: instructions }] : [];
    return [...opening, ...this.entries.flatMap(entryMessages)];
  }
}

function entryMessages(entry) {
  if (entry.kind === "question") return [{ role: "user", content: entry.text }];
  if (!isWorthKeeping(entry)) return [];
  const message = { role: "assistant", content: entry.content };
  if (!entry.calls.length) return [message];
  const calls = entry.calls.map(({ id, name, arguments: text }) => ({
    id,
    type: "function",
    function: { name, arguments: text },
  }));
  const results = entry.calls.map(({ id, result }) => ({
    role: "tool",
    tool_call_id: id,
    content: result ?? NO_RESULT,
  }));
  // Between calls the model needs what it thought before them.
  return [{ ...message, reasoning: entry.reasoning, tool_calls: calls }, ...results];
}
