// What a person has chosen, and the request that is made of it.

import { parseFunctions } from "./functions.mjs";

export const DEFAULTS = Object.freeze({
  model: "",
  effort: "medium",
  instructions: "",
  temperature: "",
  maxTokens: "",
  seed: "",
  functions: "",
  opensReasoning: false,
});

/** Return the body of a streamed request; throws what `parseFunctions` throws. */
export function chatRequest(settings, conversation) {
  const tools = parseFunctions(settings.functions);
  return {
    model: settings.model,
    messages: conversation.messages(settings.instructions),
    reasoning_effort: settings.effort,
    stream: true,
    // Usage in every chunk: the rate is known while the answer comes, and of an answer that was stopped.
    stream_options: { include_usage: true, continuous_usage_stats: true },
    ...number("temperature", settings.temperature),
    ...number("max_tokens", settings.maxTokens),
    ...number("seed", settings.seed),
    ...(tools.length && { tools }),
  };
}

/** An empty field is left to the server. */
function number(name, text) {
  return text.trim() === "" ? {} : { [name]: Number(text) };
}
