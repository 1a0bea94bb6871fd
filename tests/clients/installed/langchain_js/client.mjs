// LangChain for JavaScript: each function asks the server through ChatOpenAI.

import { ToolMessage } from "@langchain/core/messages";
import { ChatOpenAI } from "@langchain/openai";

const chat = new ChatOpenAI({
  model: process.env.MODEL,
  temperature: 0,
  maxRetries: 0,
  streamUsage: true,
  configuration: { baseURL: process.env.OPENAI_BASE_URL },
});

function facts(message) {
  const usage = message.usage_metadata;
  return {
    content: message.content,
    finish_reason: message.response_metadata.finish_reason,
    prompt_tokens: usage.input_tokens,
    completion_tokens: usage.output_tokens,
    reasoning_tokens: usage.output_token_details.reasoning,
  };
}

const functions = {
  async whole(messages) {
    return facts(await chat.invoke(messages));
  },

  async streamed(messages) {
    let answer;
    for await (const chunk of await chat.stream(messages)) {
      answer = answer === undefined ? chunk : answer.concat(chunk);
    }
    return facts(answer);
  },

  async tool_loop(messages, tool, result) {
    const model = chat.bindTools([tool]);
    const history = [...messages];
    const calls = [];
    for (;;) {
      const answer = await model.invoke(history);
      if (!answer.tool_calls.length) return { calls, content: answer.content };
      history.push(answer);
      for (const call of answer.tool_calls) {
        calls.push({ name: call.name, arguments: call.args });
        history.push(new ToolMessage({ content: result, tool_call_id: call.id }));
      }
    }
  },
};

const [name, ...texts] = process.argv.slice(2);
console.log(JSON.stringify(await functions[name](...texts.map((text) => JSON.parse(text)))));
