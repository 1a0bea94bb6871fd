// The openai SDK for JavaScript: each function asks the server and returns what the SDK shows of it.

import OpenAI from "openai";
import { zodResponseFormat, zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";

const client = new OpenAI({ maxRetries: 0 });
const greedy = { model: process.env.MODEL, temperature: 0 };

function facts(message, finishReason, usage) {
  return {
    content: message.content,
    reasoning: message.reasoning,
    finish_reason: finishReason,
    prompt_tokens: usage.prompt_tokens,
    completion_tokens: usage.completion_tokens,
    reasoning_tokens: usage.completion_tokens_details.reasoning_tokens,
  };
}

function responseFacts(response) {
  const thoughts = response.output.filter((item) => item.type === "reasoning");
  return {
    content: response.output_text,
    reasoning: thoughts.flatMap((item) => item.content.map((part) => part.text)).join(""),
    finish_reason: response.status === "completed" ? "stop" : response.status,
    prompt_tokens: response.usage.input_tokens,
    completion_tokens: response.usage.output_tokens,
    reasoning_tokens: response.usage.output_tokens_details.reasoning_tokens,
  };
}

const functions = {
  async whole(messages) {
    const answer = await client.chat.completions.create({ ...greedy, messages });
    const [choice] = answer.choices;
    return facts(choice.message, choice.finish_reason, answer.usage);
  },

  async streamed(messages) {
    let reasoning = "";
    const stream = client.chat.completions.stream({
      ...greedy,
      messages,
      stream_options: { include_usage: true },
    });
    for await (const chunk of stream) reasoning += chunk.choices[0]?.delta.reasoning ?? "";
    const answer = await stream.finalChatCompletion();
    const [choice] = answer.choices;
    return facts({ ...choice.message, reasoning }, choice.finish_reason, answer.usage);
  },

  async logprobs(messages) {
    const answer = await client.chat.completions.create({ ...greedy, messages, logprobs: true });
    return answer.choices[0].logprobs.content.map(({ token, logprob }) => [token, logprob]);
  },

  async tool_loop(messages, tool, result) {
    const calls = [];
    const callable = {
      ...tool,
      function: {
        ...tool.function,
        parse: JSON.parse,
        function: (args) => {
          calls.push({ name: tool.function.name, arguments: args });
          return result;
        },
      },
    };
    const runner = client.chat.completions.runTools({ ...greedy, messages, tools: [callable] });
    return { calls, content: await runner.finalContent() };
  },

  async streamed_call(messages, tool) {
    const stream = client.chat.completions.stream({ ...greedy, messages, tools: [tool] });
    const calls = await stream.finalMessage().then((message) => message.tool_calls);
    return calls.map((call) => ({
      name: call.function.name,
      arguments: JSON.parse(call.function.arguments),
    }));
  },

  async parsed(messages) {
    const only = z.object({ city: z.literal("Bern") });
    const answer = await client.chat.completions.parse({
      ...greedy,
      messages,
      response_format: zodResponseFormat(only, "answer"),
    });
    return answer.choices[0].message.parsed;
  },

  async response(messages) {
    return responseFacts(await client.responses.create({ ...greedy, input: messages }));
  },

  async streamed_response(messages) {
    let text = "";
    const stream = client.responses.stream({ ...greedy, input: messages });
    for await (const event of stream) {
      if (event.type === "response.output_text.delta") text += event.delta;
    }
    return { ...responseFacts(await stream.finalResponse()), content: text };
  },

  async parsed_response(messages) {
    const only = z.object({ city: z.literal("Bern") });
    const format = zodTextFormat(only, "answer");
    const answer = await client.responses.parse({ ...greedy, input: messages, text: { format } });
    return answer.output_parsed;
  },

  async refusals(messages) {
    async function refused(changes, using = client) {
      try {
        await using.chat.completions.create({ ...greedy, messages, ...changes });
      } catch (error) {
        return [error.constructor.name, error.code ?? error.param];
      }
    }
    return {
      key: await refused({}, new OpenAI({ apiKey: "wrong", maxRetries: 0 })),
      model: await refused({ model: "none" }),
      field: await refused({ temperature: 9 }),
    };
  },
};

const [name, ...texts] = process.argv.slice(2);
console.log(JSON.stringify(await functions[name](...texts.map((text) => JSON.parse(text)))));
