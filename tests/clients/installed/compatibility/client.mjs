// What a server of gpt-oss owes its clients, case by case: a question, the call it asks for, the answer.
// One function for each API, whole and streamed; all return the same facts.

import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0 });
const greedy = { model: process.env.MODEL, temperature: 0 };

function check(holds, problem) {
  if (!holds) throw new Error(problem);
}

async function chat({ question, tools, result, stream }) {
  const messages = [{ role: "user", content: question }];
  const wrapped = tools.map((tool) => ({ type: "function", function: tool }));

  async function ask() {
    const fields = { ...greedy, messages, tools: wrapped };
    if (!stream) return client.chat.completions.create(fields);
    let reasoning = "";
    const runner = client.chat.completions.stream({
      ...fields,
      stream_options: { include_usage: true },
    });
    for await (const chunk of runner) reasoning += chunk.choices[0]?.delta.reasoning ?? "";
    const answer = await runner.finalChatCompletion();
    answer.choices[0].message.reasoning = reasoning;
    return answer;
  }

  const first = await ask();
  const [{ message, finish_reason: finishReason }] = first.choices;
  check(finishReason === "tool_calls", `the turn with the call ended with ${finishReason}`);
  check(message.tool_calls.length === 1, `${message.tool_calls.length} calls`);
  const [call] = message.tool_calls;
  messages.push(message, { role: "tool", tool_call_id: call.id, content: result });
  const second = await ask();
  check(second.choices[0].finish_reason === "stop", "the turn with the answer did not stop");
  return {
    call: { name: call.function.name, arguments: JSON.parse(call.function.arguments) },
    answer: second.choices[0].message.content,
    reasoning: [message.reasoning, second.choices[0].message.reasoning],
    usage: [first, second].map(({ usage }) => ({
      input: usage.prompt_tokens,
      output: usage.completion_tokens,
      total: usage.total_tokens,
      reasoning: usage.completion_tokens_details.reasoning_tokens,
    })),
  };
}

function checkEvents(events) {
  const types = events.map((event) => event.type);
  check(types[0] === "response.created", `the first event is ${types[0]}`);
  check(types[1] === "response.in_progress", `the second event is ${types[1]}`);
  check(types.at(-1) === "response.completed", `the last event is ${types.at(-1)}`);
  events.forEach((event, index) =>
    check(event.sequence_number === index, `event ${index} has number ${event.sequence_number}`),
  );
  const { output } = events.at(-1).response;
  output.forEach((item, index) => {
    const own = events.filter((event) => event.output_index === index);
    check(own[0].type === "response.output_item.added", `item ${index} begins with ${own[0].type}`);
    const done = own.at(-1);
    check(done.type === "response.output_item.done", `item ${index} ends with ${done.type}`);
    check(JSON.stringify(done.item) === JSON.stringify(item), `item ${index} differs at the end`);
    const deltas = own.filter((event) => event.type.endsWith(".delta"));
    const text = item.arguments ?? item.content.map((part) => part.text).join("");
    const streamed = deltas.map((event) => event.delta).join("");
    check(streamed === text, `item ${index} was streamed as ${streamed}`);
  });
}

function reasoningOf(response) {
  const items = response.output.filter((item) => item.type === "reasoning");
  check(items.length > 0, "no reasoning item");
  const parts = items.flatMap((item) => item.content);
  check(
    parts.every((part) => part.type === "reasoning_text" && part.text.length > 0),
    "a part of the reasoning is empty or of another type",
  );
  return parts.map((part) => part.text).join("");
}

async function responses({ question, tools, result, stream }) {
  const input = [{ role: "user", content: question }];
  const wrapped = tools.map((tool) => ({ type: "function", strict: false, ...tool }));

  async function ask() {
    const fields = { ...greedy, input, tools: wrapped, store: false };
    if (!stream) return client.responses.create(fields);
    const events = [];
    for await (const event of await client.responses.create({ ...fields, stream: true })) events.push(event);
    checkEvents(events);
    return events.at(-1).response;
  }

  const first = await ask();
  const calls = first.output.filter((item) => item.type === "function_call");
  check(first.status === "completed", `the turn with the call is ${first.status}`);
  check(calls.length === 1, `${calls.length} calls`);
  const [call] = calls;
  input.push(...first.output, { type: "function_call_output", call_id: call.call_id, output: result });
  const second = await ask();
  const messages = second.output.filter((item) => item.type === "message");
  check(messages.length === 1, `${messages.length} messages`);
  return {
    call: { name: call.name, arguments: JSON.parse(call.arguments) },
    answer: messages[0].content.map((part) => part.text).join(""),
    reasoning: [reasoningOf(first), reasoningOf(second)],
    usage: [first, second].map(({ usage }) => ({
      input: usage.input_tokens,
      output: usage.output_tokens,
      total: usage.total_tokens,
      reasoning: usage.output_tokens_details.reasoning_tokens,
    })),
  };
}

const apis = { chat, responses };
const [name, ...texts] = process.argv.slice(2);
const [stream, cases] = texts.map((text) => JSON.parse(text));
const facts = [];
for (const one of cases) facts.push(await apis[name]({ ...one, stream }));
console.log(JSON.stringify(facts));
