// openai-agents for JavaScript: an agent with one tool, over chat completions or the Responses API.

import {
  Agent,
  OpenAIChatCompletionsModel,
  OpenAIResponsesModel,
  run,
  setTracingDisabled,
  tool,
} from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";

const models = { chat: OpenAIChatCompletionsModel, responses: OpenAIResponsesModel };
const client = new OpenAI({ maxRetries: 0 });

function makeAgent(api, calls, result) {
  const getWeather = tool({
    name: "get_weather",
    description: "Get the weather.",
    parameters: z.object({ city: z.string() }),
    execute(args) {
      calls.push({ name: "get_weather", arguments: args });
      return result;
    },
  });
  return new Agent({
    name: "Guide",
    model: new models[api](client, process.env.MODEL),
    modelSettings: { temperature: 0 },
    tools: [getWeather],
  });
}

function facts(result, calls) {
  const { usage } = result.runContext;
  return {
    calls,
    answer: result.finalOutput,
    num_requests: usage.requests,
    input_tokens: usage.inputTokens,
    output_tokens: usage.outputTokens,
    items: result.newItems.map((item) => item.type),
  };
}

const functions = {
  async whole(api, question, toolResult) {
    const calls = [];
    return facts(await run(makeAgent(api, calls, toolResult), question, { maxTurns: 4 }), calls);
  },

  async streamed(api, question, toolResult) {
    const calls = [];
    const agent = makeAgent(api, calls, toolResult);
    const result = await run(agent, question, { maxTurns: 4, stream: true });
    let text = "";
    for await (const piece of result.toTextStream()) text += piece;
    await result.completed;
    return { ...facts(result, calls), streamed: text };
  },
};

setTracingDisabled(true);
const [name, ...texts] = process.argv.slice(2);
console.log(JSON.stringify(await functions[name](...texts.map((text) => JSON.parse(text)))));
