import assert from "node:assert/strict";
import { test } from "node:test";

import { addChunk, awaitsResult, figures, newAnswer, thinkingS } from "../../../gptoss_ray/serving/page/answer.mjs";
import { Conversation, NO_RESULT } from "../../../gptoss_ray/serving/page/conversation.mjs";
import {
  functionsState,
  parseFunctions,
  prettyArguments,
  sampleResult,
  withFunction,
} from "../../../gptoss_ray/serving/page/functions.mjs";
import { remedy } from "../../../gptoss_ray/serving/page/remedy.mjs";
import { endOfSentences } from "../../../gptoss_ray/serving/page/sentences.mjs";
import { DEFAULTS, chatRequest } from "../../../gptoss_ray/serving/page/settings.mjs";

const chunk = (delta, more = {}) => ({ choices: [{ index: 0, delta, finish_reason: null }], ...more });
const usage = (tokens) => ({
  prompt_tokens: 9,
  completion_tokens: tokens,
  prompt_tokens_details: { cached_tokens: 4 },
  completion_tokens_details: { reasoning_tokens: 2 },
});

function called(conversation) {
  const answer = conversation.addAnswer("m", 0);
  const pieces = [
    { index: 0, id: "c1", function: { name: "f", arguments: "" } },
    { index: 0, function: { arguments: '{"a"' } },
    { index: 0, function: { arguments: ":1}" } },
  ];
  addChunk(answer, chunk({ reasoning: "Look." }), 1);
  for (const piece of pieces) addChunk(answer, chunk({ tool_calls: [piece] }), 2);
  return answer;
}

test("an answer is the sum of its chunks", () => {
  const answer = newAnswer(1, "m", 1000);
  addChunk(answer, chunk({ role: "assistant", content: "", reasoning: "Hm" }, { usage: usage(1) }), 1500);
  addChunk(answer, chunk({ reasoning: "m." }, { usage: usage(2) }), 1700);
  addChunk(answer, chunk({ content: "4" }, { usage: usage(3) }), 2000);
  addChunk(answer, { choices: [{ index: 0, delta: { content: "2" }, finish_reason: "stop" }], usage: usage(5) }, 2500);
  addChunk(answer, { choices: [], usage: usage(5) }, 9000);
  assert.equal(answer.reasoning, "Hmm.");
  assert.equal(answer.content, "42");
  assert.equal(answer.finishReason, "stop");
  assert.equal(thinkingS(answer), 0.5);
  assert.deepEqual(figures(answer), [
    "first token 0.50 s",
    "4.0 tokens/s",
    "9 tokens in (4 cached)",
    "5 out (2 reasoning)",
  ]);
});

test("an answer of which nothing came has no figures", () => {
  assert.deepEqual(figures(newAnswer(1, "m", 0)), []);
});

test("a call is put together and goes back with its result and its reasons", () => {
  const conversation = new Conversation();
  conversation.addQuestion("q");
  const answer = called(conversation);
  assert.ok(awaitsResult(answer));
  answer.calls[0].result = "7";
  assert.ok(!awaitsResult(answer));
  assert.deepEqual(conversation.messages("Be brief."), [
    { role: "system", content: "Be brief." },
    { role: "user", content: "q" },
    {
      role: "assistant",
      content: "",
      reasoning: "Look.",
      tool_calls: [{ id: "c1", type: "function", function: { name: "f", arguments: '{"a":1}' } }],
    },
    { role: "tool", tool_call_id: "c1", content: "7" },
  ]);
});

test("a question in place of a result says that there is none", () => {
  const conversation = new Conversation();
  const { calls } = called(conversation);
  conversation.addQuestion("other");
  assert.equal(calls[0].result, NO_RESULT);
});

test("answers of which nothing came are not sent", () => {
  const conversation = new Conversation();
  conversation.addQuestion("q");
  conversation.addAnswer("m", 0);
  assert.deepEqual(conversation.messages(" "), [{ role: "user", content: "q" }]);
});

test("a conversation is cut at an entry, and goes on with new ids after a reload", () => {
  const conversation = new Conversation();
  conversation.addQuestion("a");
  const answer = conversation.addAnswer("m", 0);
  conversation.addQuestion("b");
  conversation.cutAt(answer.id);
  assert.deepEqual(
    conversation.entries.map((entry) => entry.text),
    ["a"],
  );
  const restored = new Conversation(JSON.parse(JSON.stringify(conversation.entries)));
  restored.addQuestion("c");
  assert.notEqual(restored.entries[0].id, restored.entries[1].id);
});

test("a request has what was chosen and leaves the rest to the server", () => {
  const conversation = new Conversation();
  conversation.addQuestion("q");
  const plain = chatRequest({ ...DEFAULTS, model: "m" }, conversation);
  assert.deepEqual(Object.keys(plain).sort(), ["messages", "model", "reasoning_effort", "stream", "stream_options"]);
  const chosen = {
    ...DEFAULTS,
    model: "m",
    effort: "high",
    temperature: "0",
    maxTokens: "5",
    seed: "-1",
    functions: '{"name":"f"}',
  };
  const {
    temperature,
    max_tokens: maxTokens,
    seed,
    reasoning_effort: effort,
    tools,
  } = chatRequest(chosen, conversation);
  assert.deepEqual([temperature, maxTokens, seed, effort], [0, 5, -1, "high"]);
  assert.deepEqual(tools, [{ type: "function", function: { name: "f" } }]);
});

test("functions are read in either form, and what is wrong is told", () => {
  assert.deepEqual(parseFunctions("  "), []);
  assert.equal(parseFunctions('[{"type":"function","function":{"name":"f"}}]')[0].function.name, "f");
  for (const wrong of ["{", "[1]", '[{"type":"function"}]', "null", '{"name":1}']) {
    assert.throws(() => parseFunctions(wrong));
    assert.ok(functionsState(wrong).isWrong, wrong);
  }
  const text = withFunction(withFunction("", { name: "f" }), { name: "g" });
  assert.equal(functionsState(text).text, "Offered: f, g.");
  assert.equal(functionsState(withFunction(text, { name: "f" })).num, 2);
});

test("arguments are shown indented, or as they are", () => {
  assert.equal(prettyArguments('{"a":1}'), '{\n  "a": 1\n}');
  assert.equal(prettyArguments('{"a"'), '{"a"');
  assert.equal(sampleResult({ name: "multiply", arguments: '{"a":2,"b":3}' }), '{"product":6}');
  assert.equal(sampleResult({ name: "multiply", arguments: "{" }), "");
  assert.equal(sampleResult({ name: "other", arguments: "{}" }), "");
});

test("every error has a remedy", () => {
  assert.match(remedy({ status: 400, code: "context_length_exceeded" }), /new chat/);
  assert.match(remedy({ status: 400, param: "tools[0].function.name" }), /functions/);
  assert.match(remedy({ status: 400, param: "temperature" }), /temperature/);
  assert.match(remedy({ status: 429, retryAfterS: 3 }), /3 s/);
  for (const status of [0, 400, 401, 404, 413, 418, 429, 500, 502, 503, 504]) assert.ok(remedy({ status }));
});

test("sentences end where a voice pauses", () => {
  assert.equal(endOfSentences("It is 3.5"), 0);
  assert.equal(endOfSentences("It is 3.5. And"), 10);
  assert.equal(endOfSentences("one\ntwo"), 4);
});
