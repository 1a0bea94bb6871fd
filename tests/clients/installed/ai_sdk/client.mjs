// Vercel's AI SDK: each function asks the server through one of its two providers for servers like ours.

import { createOpenAI } from "@ai-sdk/openai";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, Output, generateText, stepCountIs, streamText, tool } from "ai";
import { z } from "zod";

const baseURL = process.env.OPENAI_BASE_URL;
const apiKey = process.env.OPENAI_API_KEY;

function makeModel(api, key = apiKey) {
  const model = process.env.MODEL;
  if (api === "responses") return createOpenAI({ baseURL, apiKey: key }).responses(model);
  const options = { name: "gptoss", baseURL, apiKey: key, includeUsage: true };
  return createOpenAICompatible({ ...options, supportsStructuredOutputs: true }).chatModel(model);
}

function options(api, messages) {
  return { model: makeModel(api), messages, temperature: 0, maxRetries: 0, allowSystemInMessages: true };
}

function facts(text, reasoning, finishReason, usage) {
  return {
    content: text,
    reasoning,
    finish_reason: finishReason,
    prompt_tokens: usage.inputTokens,
    completion_tokens: usage.outputTokens,
    reasoning_tokens: usage.outputTokenDetails.reasoningTokens,
  };
}

function weatherTool(calls, result) {
  return tool({
    description: "Get the weather.",
    inputSchema: z.object({ city: z.string() }),
    execute(args) {
      calls.push({ name: "get_weather", arguments: args });
      return result;
    },
  });
}

const functions = {
  async whole(api, messages) {
    const answer = await generateText(options(api, messages));
    return facts(answer.text, answer.reasoningText, answer.finishReason, answer.usage);
  },

  async streamed(api, messages) {
    let text = "";
    let reasoning = "";
    const answer = streamText(options(api, messages));
    for await (const part of answer.fullStream) {
      if (part.type === "text-delta") text += part.text;
      if (part.type === "reasoning-delta") reasoning += part.text;
      if (part.type === "error") throw part.error;
    }
    return facts(text, reasoning, await answer.finishReason, await answer.usage);
  },

  async tool_loop(api, messages, result) {
    const calls = [];
    const tools = { get_weather: weatherTool(calls, result) };
    const answer = await generateText({
      ...options(api, messages),
      tools,
      stopWhen: stepCountIs(4),
    });
    return { calls, content: answer.text, num_steps: answer.steps.length };
  },

  async streamed_tool_loop(api, messages, result) {
    const calls = [];
    const tools = { get_weather: weatherTool(calls, result) };
    const answer = streamText({ ...options(api, messages), tools, stopWhen: stepCountIs(4) });
    const steps = await answer.steps;
    return { calls, content: await answer.text, num_steps: steps.length };
  },

  async object(api, messages) {
    const schema = z.object({ city: z.literal("Bern") });
    const answer = await generateText({ ...options(api, messages), output: Output.object({ schema }) });
    return answer.output;
  },

  async refused(api, messages) {
    try {
      await generateText({ ...options(api, messages), model: makeModel(api, "wrong") });
    } catch (error) {
      return { is_api_error: APICallError.isInstance(error), status: error.statusCode };
    }
  },
};

const [name, ...texts] = process.argv.slice(2);
console.log(JSON.stringify(await functions[name](...texts.map((text) => JSON.parse(text)))));
