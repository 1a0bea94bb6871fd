// The server's API as this page uses it. Addresses are relative to the page, so that a route prefix is kept.

import { events } from "./sse.mjs";

/** What went wrong, as the server tells it; `status` is 0 where no answer came. */
export class ApiError extends Error {
  constructor(message, { status = 0, code = null, param = null, retryAfterS = null } = {}) {
    super(message);
    Object.assign(this, { name: "ApiError", status, code, param, retryAfterS });
  }
}

export class Api {
  /** `key` returns the API key, or "" where none is known. */
  constructor({ key, base = document.baseURI, fetch = globalThis.fetch.bind(globalThis) }) {
    Object.assign(this, { key, base, fetch });
  }

  /** Return the names of the served models, without aliases. */
  async models() {
    const { data } = await (await this.request("v1/models")).json();
    return data.filter((model) => model.root === model.id).map((model) => model.id);
  }

  /** Return what the dashboard shows. */
  async dashboard() {
    return (await this.request("dashboard/state")).json();
  }

  /** Yield the chunks of a streamed chat; aborting `signal` ends it here and in the server. */
  async *chat(body, signal) {
    const response = await this.request("v1/chat/completions", {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
      signal,
    });
    try {
      for await (const data of events(response.body)) {
        if (data === "[DONE]") return;
        const chunk = JSON.parse(data);
        if (chunk.error) throw fromObject(chunk.error);
        yield chunk;
      }
    } catch (error) {
      throw signal.aborted || error instanceof ApiError ? error : unreachable();
    }
    throw new ApiError("The connection ended before the answer was complete.");
  }

  async request(path, options = {}) {
    const headers = { ...options.headers, ...(this.key() && { authorization: `Bearer ${this.key()}` }) };
    let response;
    try {
      response = await this.fetch(new URL(path, this.base), { ...options, headers, cache: "no-store" });
    } catch (error) {
      throw options.signal?.aborted ? error : unreachable();
    }
    if (!response.ok) throw await fromResponse(response);
    return response;
  }
}

function unreachable() {
  return new ApiError("The server cannot be reached.");
}

function fromObject(error, more = {}) {
  return new ApiError(error.message, { status: 500, code: error.code, param: error.param, ...more });
}

/** Read an error's body; a proxy's may be anything. */
async function fromResponse(response) {
  const more = { status: response.status, retryAfterS: Number(response.headers.get("retry-after")) || null };
  try {
    return fromObject((await response.json()).error, more);
  } catch {
    return new ApiError(`The server answered ${response.status} ${response.statusText}`.trim() + ".", more);
  }
}
