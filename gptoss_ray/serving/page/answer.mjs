// One answer of the model as it grows: an entry of the conversation, plain data.

/** A rate over less than this tells of the network alone: all tokens came at once. */
const MIN_DURATION_S = 0.05;

/** Return an answer of which nothing has come yet; times are in milliseconds of `performance.now()`. */
export function newAnswer(id, model, sentMs) {
  return {
    id,
    kind: "answer",
    model,
    content: "",
    reasoning: "",
    calls: [],
    finishReason: null,
    isStopped: false,
    error: null,
    usage: null,
    times: { sentMs, firstMs: null, reasonedMs: null, lastMs: null, firstTokens: 0 },
  };
}

/** Fold a chunk of the stream in. */
export function addChunk(answer, chunk, nowMs) {
  for (const { delta, finish_reason: finishReason } of chunk.choices) {
    if (delta.reasoning) answer.reasoning += delta.reasoning;
    if (delta.content) answer.content += delta.content;
    for (const piece of delta.tool_calls ?? []) addCallPiece(answer.calls, piece);
    if (finishReason) answer.finishReason = finishReason;
  }
  noteTimes(answer, chunk, nowMs);
  if (chunk.usage) answer.usage = chunk.usage;
}

function addCallPiece(calls, { index, id, function: piece }) {
  calls[index] ??= { id, name: "", arguments: "", result: null };
  calls[index].name += piece.name ?? "";
  calls[index].arguments += piece.arguments ?? "";
}

function noteTimes({ times, content, calls }, chunk, nowMs) {
  if (!chunk.choices.length) return;
  if (times.firstMs === null) {
    times.firstMs = nowMs;
    times.firstTokens = chunk.usage?.completion_tokens ?? 0;
  }
  if (times.reasonedMs === null && (content || calls.length)) times.reasonedMs = nowMs;
  times.lastMs = nowMs;
}

/** Whether a call waits for its result. */
export function awaitsResult(answer) {
  return answer.calls.some((call) => call.result === null);
}

/** Whether this is any answer at all, and not only the start of one. */
export function isWorthKeeping(answer) {
  return answer.content !== "" || answer.calls.length > 0;
}

/** Return how long the model thought, in seconds. */
export function thinkingS({ times }) {
  return ((times.reasonedMs ?? times.lastMs) - times.firstMs) / 1000;
}

/** Return the figures of an answer as short phrases: delay, rate, tokens in and out. */
export function figures({ usage, times }) {
  const phrases = [];
  if (times.firstMs !== null) phrases.push(`first token ${seconds((times.firstMs - times.sentMs) / 1000)}`);
  if (!usage) return phrases;
  const numLater = usage.completion_tokens - times.firstTokens;
  const durationS = (times.lastMs - times.firstMs) / 1000;
  if (numLater > 0 && durationS >= MIN_DURATION_S) phrases.push(`${rounded(numLater / durationS)} tokens/s`);
  const cached = usage.prompt_tokens_details?.cached_tokens;
  const reasoned = usage.completion_tokens_details?.reasoning_tokens;
  phrases.push(`${usage.prompt_tokens} tokens in${cached ? ` (${cached} cached)` : ""}`);
  phrases.push(`${usage.completion_tokens} out${reasoned ? ` (${reasoned} reasoning)` : ""}`);
  return phrases;
}

/** Write a duration as people read it. */
export function seconds(value) {
  if (value < 0.1) return `${Math.round(value * 1000)} ms`;
  return `${value < 10 ? value.toFixed(2) : value.toFixed(1)} s`;
}

function rounded(value) {
  return value < 100 ? value.toFixed(1) : Math.round(value).toString();
}
