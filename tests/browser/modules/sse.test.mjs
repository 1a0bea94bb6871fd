import assert from "node:assert/strict";
import { test } from "node:test";

import { events } from "../../../gptoss_ray/serving/page/sse.mjs";

/** A stream of these bytes, cut into pieces of `size`. */
function streamOf(text, size = text.length || 1) {
  const bytes = new TextEncoder().encode(text);
  const state = { isCancelled: false };
  let at = 0;
  const stream = new ReadableStream({
    pull(controller) {
      if (at >= bytes.length) return controller.close();
      controller.enqueue(bytes.slice(at, at + size));
      at += size;
    },
    cancel() {
      state.isCancelled = true;
    },
  });
  return { stream, state };
}

async function read(text, size) {
  const found = [];
  for await (const data of events(streamOf(text, size).stream)) found.push(data);
  return found;
}

const STREAM =
  'data: {"a":"é🙂"}\n\ndata: two\r\n\r\n: a comment\n\nevent: x\nid: 1\ndata: three\rdata:  four\r\rdata\n\n';
const DATA = ['{"a":"é🙂"}', "two", "three\n four", ""];

test("events are the same however the bytes are cut", async () => {
  for (const size of [1, 2, 3, 5, 7, 1000]) assert.deepEqual(await read(STREAM, size), DATA);
});

test("an event without its end is not told", async () => {
  assert.deepEqual(await read("data: one\n\ndata: half"), ["one"]);
  assert.deepEqual(await read("data: one\n\ndata: half\n"), ["one"]);
  assert.deepEqual(await read(""), []);
});

test("fields that only begin like data are others", async () => {
  assert.deepEqual(await read("database: x\ndata: y\n\n"), ["y"]);
});

test("leaving early cancels the stream", async () => {
  const { stream, state } = streamOf("data: one\n\ndata: two\n\n", 11);
  for await (const data of events(stream)) {
    assert.equal(data, "one");
    break;
  }
  assert.ok(state.isCancelled);
});

test("an error of the stream is passed on", async () => {
  const stream = new ReadableStream({ pull: (controller) => controller.error(new Error("gone")) });
  await assert.rejects(async () => {
    for await (const _ of events(stream));
  }, /gone/);
});
