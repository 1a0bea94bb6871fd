// Questions to begin with, that the served model can answer.

import { SAMPLES } from "./functions.mjs";

const [WEATHER, , MULTIPLY] = SAMPLES.map(({ definition }) => definition);

const FOR_DEMO = [
  { title: "A sum", text: "What is 17 + 25?" },
  { title: "A capital", text: "What is the capital of Japan?" },
  { title: "Counting", text: "Count from 3 to 9." },
  { title: "Words", text: "How many words are in: the quick brown fox" },
  { title: "Your name", text: "My name is Ada." },
  { title: "A function call", text: "What is the weather in Paris?", definition: WEATHER },
];

const FOR_LARGE = [
  { title: "Explain", text: "Why is the sky blue at noon and red at dusk? Explain it to a curious child." },
  { title: "Code", text: "Write a Python function that merges two sorted lists, with tests." },
  { title: "Compare", text: "Compare TCP, UDP and QUIC in a table." },
  { title: "Reason", text: "A bat and a ball cost 1.10 together; the bat costs 1 more. What does the ball cost?" },
  { title: "Plan", text: "Plan three days in Lisbon with a ten-year-old, by morning and afternoon." },
  { title: "A function call", text: "Multiply 1234.5 by 678.9.", definition: MULTIPLY },
];

/** Return examples for a model; the built-in demo model knows six skills and no others. */
export function examplesFor(model) {
  return model.includes("demo") ? FOR_DEMO : FOR_LARGE;
}
