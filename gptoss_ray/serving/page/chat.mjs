// What a person does with the conversation: ask, stop, ask again, answer a call, begin anew. One answer at a time.

import { addChunk } from "./answer.mjs";
import { ApiError } from "./api.mjs";
import { Conversation } from "./conversation.mjs";
import { remedy } from "./remedy.mjs";
import { chatRequest } from "./settings.mjs";

export class Chat {
  /**
   * `withKey` runs an action of the API, and again with another key where it answers 401. `onChange` is called when
   * entries come or go, `onStart` before an answer, `onGrowth` for each piece of the live answer, `onEnd` when nothing
   * more of it will come.
   */
  constructor({ api, settings, conversation, withKey, onChange, onStart, onGrowth, onEnd }) {
    Object.assign(this, { api, settings, conversation, withKey, onChange, onStart, onGrowth, onEnd });
    this.live = null;
  }

  ask(text) {
    this.conversation.addQuestion(text);
    return this.answer();
  }

  edit(question, text) {
    this.stop();
    this.conversation.cutAt(question.id);
    return this.ask(text);
  }

  regenerate(answer) {
    this.stop();
    this.conversation.cutAt(answer.id);
    return this.answer();
  }

  /** Give a call its result; the model goes on once all calls have theirs. */
  giveResult(call, text) {
    call.result = text;
    const isComplete = this.conversation.last.calls.every(({ result }) => result !== null);
    if (isComplete) return this.answer();
    this.onChange();
  }

  clear() {
    this.stop();
    this.conversation = new Conversation();
    this.onChange();
  }

  /** End the live answer here and in the server; what has come of it stays. */
  stop() {
    this.live?.abort.abort();
    if (this.live) this.end(this.live);
  }

  async answer() {
    const body = () => chatRequest(this.settings, this.conversation);
    const answer = this.conversation.addAnswer(this.settings.model, performance.now());
    const live = { answer, abort: new AbortController() };
    this.live = live;
    this.onStart();
    this.onChange();
    try {
      await this.withKey(() => this.receive(live, body()));
    } catch (error) {
      if (!live.abort.signal.aborted) answer.error = shown(error);
    }
    if (this.live === live) this.end(live);
  }

  async receive({ answer, abort }, body) {
    answer.times.sentMs = performance.now();
    for await (const chunk of this.api.chat(body, abort.signal)) {
      if (abort.signal.aborted) return;
      addChunk(answer, chunk, performance.now());
      this.onGrowth(answer);
    }
  }

  end({ answer, abort }) {
    this.live = null;
    if (abort.signal.aborted) markStopped(answer);
    this.onChange();
    this.onEnd(answer);
  }
}

/** Note that no more will come of an answer; a call that was cut off cannot be made. */
export function markStopped(answer) {
  answer.isStopped = true;
  answer.calls = [];
}

function shown(error) {
  if (error instanceof ApiError) return { message: error.message, remedy: remedy(error) };
  return { message: error.message, remedy: "Correct the functions in the settings, or reload the page." };
}
