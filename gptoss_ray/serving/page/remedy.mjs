// What a person can do about an error of the server.

const BY_CODE = {
  context_length_exceeded: "The conversation no longer fits the model. Start a new chat, or edit an earlier question.",
  model_not_found: "Choose another model at the top of the page.",
  request_too_large: "Shorten the message, or start a new chat.",
  // These may come in the middle of a stream, where there is no status any more.
  overloaded: "The server is busy. Retry in a moment.",
  unavailable: "The model is loading, or is being replaced. Retry in a moment.",
  deadline_exceeded: "Retry; a shorter answer needs less time.",
};

const BY_PARAM = {
  temperature: "Correct the temperature in the settings.",
  max_tokens: "Correct the token limit in the settings.",
  seed: "Correct the seed in the settings.",
  tools: "Correct the functions in the settings.",
};

const BY_STATUS = {
  0: "Check that the server is running and that you are connected, then retry.",
  401: "Enter an API key of this server.",
  429: "The server is busy. Retry in a moment.",
  500: "Retry. If it happens again, the server's log has the cause.",
  502: "Something between you and the server cannot reach it. Retry in a moment.",
  503: "The server cannot answer now. Retry in a moment.",
};

/** Return a sentence or two for an ApiError. */
export function remedy({ status, code, param, retryAfterS }) {
  if (status === 429 && retryAfterS) return `The server is busy. Retry in ${retryAfterS} s.`;
  const field = param?.split(/[.[]/)[0];
  return BY_CODE[code] ?? BY_PARAM[field] ?? BY_STATUS[status] ?? "Change the request, or retry.";
}
