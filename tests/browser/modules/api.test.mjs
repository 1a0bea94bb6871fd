import assert from "node:assert/strict";
import { test } from "node:test";

import { Api, ApiError } from "../../../gptoss_ray/serving/page/api.mjs";

const BASE = "http://server.test/some/where/";
const OVERLOADED = { error: { message: "Full.", type: "rate_limit_error", param: null, code: "overloaded" } };

/** An API whose every request gets this answer; `asked` has the requests. */
function apiOf(answer, key = "") {
  const asked = [];
  const fetch = async (url, options) => {
    asked.push({ url: url.href, ...options });
    return typeof answer === "function" ? answer(options) : answer;
  };
  return { api: new Api({ key: () => key, base: BASE, fetch }), asked };
}

async function chunks(api, signal = new AbortController().signal) {
  const found = [];
  for await (const chunk of api.chat({ model: "m" }, signal)) found.push(chunk);
  return found;
}

test("requests go below the page's own address, with the key where there is one", async () => {
  const models = {
    data: [
      { id: "a", root: "a" },
      { id: "alias", root: "a" },
    ],
  };
  const { api, asked } = apiOf(Response.json(models), "secret");
  assert.deepEqual(await api.models(), ["a"]);
  assert.equal(asked[0].url, `${BASE}v1/models`);
  assert.equal(asked[0].headers.authorization, "Bearer secret");
  const open = apiOf(Response.json(models));
  await open.api.models();
  assert.ok(!("authorization" in open.asked[0].headers));
});

test("a stream's chunks end with [DONE]", async () => {
  const { api } = apiOf(new Response('data: {"choices":[]}\n\ndata: [DONE]\n\ndata: {"late":1}\n\n'));
  assert.deepEqual(await chunks(api), [{ choices: [] }]);
});

test("a stream without its end is an error", async () => {
  const { api } = apiOf(new Response('data: {"choices":[]}\n\n'));
  await assert.rejects(chunks(api), /before the answer was complete/);
});

test("an error of the server is told with its code and when to come back", async () => {
  const refused = Response.json(OVERLOADED, { status: 429, headers: { "retry-after": "3" } });
  await assert.rejects(chunks(apiOf(refused).api), {
    message: "Full.",
    status: 429,
    code: "overloaded",
    retryAfterS: 3,
  });
  const inStream = new Response(`data: ${JSON.stringify(OVERLOADED)}\n\ndata: [DONE]\n\n`);
  await assert.rejects(chunks(apiOf(inStream).api), { message: "Full.", code: "overloaded" });
});

test("what a proxy answers is an error, whatever it says", async () => {
  for (const body of ["<b>Bad gateway</b>", "{}", "null", ""]) {
    const { api } = apiOf(new Response(body, { status: 502, statusText: "Bad Gateway" }));
    await assert.rejects(chunks(api), { message: "The server answered 502 Bad Gateway.", status: 502 });
  }
});

test("a server that is not there is told so, also in the middle of a stream", async () => {
  const gone = () => Promise.reject(new TypeError("network"));
  await assert.rejects(chunks(apiOf(gone).api), { name: "ApiError", status: 0 });
  const broken = new ReadableStream({ pull: (controller) => controller.error(new TypeError("network")) });
  await assert.rejects(chunks(apiOf(new Response(broken)).api), { name: "ApiError", status: 0 });
});

test("an abort is no error of the server", async () => {
  const abort = new AbortController();
  const { api } = apiOf(({ signal }) => Promise.reject(signal.reason));
  abort.abort();
  await assert.rejects(chunks(api, abort.signal), (error) => !(error instanceof ApiError));
});
