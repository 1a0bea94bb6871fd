// Server-sent events of a response body, as fetch reads it: an async generator of each event's data.

/** Split a stream of text into lines; they may end in LF, CR LF or CR. */
async function* lines(texts) {
  let rest = "";
  for await (const text of texts) {
    // A CR at the end may be the first half of CR LF: it waits for what follows.
    const parts = (rest + text).split(/\r\n|\n|\r(?!$)/);
    rest = parts.pop();
    yield* parts;
  }
  if (rest) yield rest.replace(/\r$/, "");
}

/** Read a byte stream piece by piece; leaving the loop early cancels the stream, and so the request. */
async function* decoded(stream) {
  const decoder = new TextDecoder();
  const reader = stream.getReader();
  let isRead = false;
  try {
    for (;;) {
      const { value, done } = await reader.read();
      yield decoder.decode(value, { stream: !done });
      if (done) break;
    }
    isRead = true;
  } finally {
    if (!isRead) reader.cancel().catch(() => {});
    reader.releaseLock();
  }
}

/** Yield the data of each event; comments and other fields are skipped, as is an event without its end. */
export async function* events(stream) {
  let data = [];
  for await (const line of lines(decoded(stream))) {
    if (line === "") {
      if (data.length) yield data.join("\n");
      data = [];
    } else if (line === "data" || line.startsWith("data:")) {
      data.push(line.slice(5).replace(/^ /, ""));
    }
  }
}
