// The functions that a model may call: read from JSON that a person writes, and samples to begin with.

/** Return the `tools` of a request; throws an Error that says what is wrong with the text. */
export function parseFunctions(text) {
  if (!text.trim()) return [];
  const value = JSON.parse(text);
  return (Array.isArray(value) ? value : [value]).map(asTool);
}

/** Accept a whole tool, or the function alone. */
function asTool(item, index) {
  const definition = item?.type === "function" ? item.function : item;
  if (typeof definition?.name !== "string") {
    throw new Error(`Function ${index + 1} has no "name".`);
  }
  return { type: "function", function: definition };
}

/** Say how many functions a text offers, or what is wrong with it. */
export function functionsState(text) {
  try {
    const names = parseFunctions(text).map((tool) => tool.function.name);
    return {
      num: names.length,
      text: names.length ? `Offered: ${names.join(", ")}.` : "None offered.",
      isWrong: false,
    };
  } catch (error) {
    return { num: 0, text: `Not understood: ${error.message}`, isWrong: true };
  }
}

/** Return the text with one more function at its end; of the same name there is only one. */
export function withFunction(text, definition) {
  const others = parseFunctions(text).map((tool) => tool.function);
  const kept = others.filter(({ name }) => name !== definition.name);
  return JSON.stringify([...kept, definition], null, 2);
}

/** Return arguments as people read them; as they are where they are no JSON. */
export function prettyArguments(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text;
  }
}

function sample(name, description, properties, result) {
  const parameters = { type: "object", properties, required: Object.keys(properties) };
  return { definition: { name, description, parameters }, result };
}

const city = { type: "string", description: "Name of the city." };

/** Each with a result to send back, made up from the call's arguments. */
export const SAMPLES = [
  sample("get_weather", "Get the weather in a city.", { city }, (given) => ({ city: given.city, temperature: 18 })),
  sample("get_time", "Get the current time.", { city }, (given) => ({ city: given.city, time: "14:05" })),
  sample("multiply", "Multiply two numbers.", { a: { type: "number" }, b: { type: "number" } }, (given) => ({
    product: given.a * given.b,
  })),
];

/** Return a made-up result for a call of a sample function, else "". */
export function sampleResult({ name, arguments: text }) {
  const found = SAMPLES.find(({ definition }) => definition.name === name);
  try {
    return found ? JSON.stringify(found.result(JSON.parse(text))) : "";
  } catch {
    return "";
  }
}
