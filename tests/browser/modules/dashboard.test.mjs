import assert from "node:assert/strict";
import { test } from "node:test";

const PAGE = "../../../gptoss_ray/serving/page";
const { counted, duration, percent, quantity } = await import(`${PAGE}/format.mjs`);
const { hottest, relative, strength } = await import(`${PAGE}/heat.mjs`);
const { loadBetween, rankRates, rate, replicaRates, sum } = await import(`${PAGE}/rates.mjs`);

const load = (fields) => ({ generation_tokens: 0, prompt_tokens: 0, expert_rows: 0, steps: 0, step_s: 0, all_to_all_s: 0, ...fields });

test("a rate is what a total grew by a second", () => {
  assert.equal(rate(100, 160, 2), 30);
  assert.equal(rate(100, 100, 2), 0);
});

test("a total that began anew, or is not known, has no rate", () => {
  assert.equal(rate(100, 7, 2), null);
  assert.equal(rate(undefined, 7, 2), null);
  assert.equal(rate(1, 7, 0), null);
});

test("of a rank there are rates, the mean step, and the share of all-to-alls in it", () => {
  const before = load({ generation_tokens: 10, steps: 100, step_s: 2, all_to_all_s: 1 });
  const after = load({ generation_tokens: 50, steps: 110, step_s: 2.5, all_to_all_s: 1.1 });
  const rates = rankRates(before, after, 2);
  assert.equal(rates.generation, 20);
  assert.ok(Math.abs(rates.stepS - 0.05) < 1e-9);
  assert.ok(Math.abs(rates.allToAll - 0.2) < 1e-9);
});

test("a rank that has just come, or is silent, has no rates", () => {
  const before = { ranks: [{ rank: 0, load: load({}) }, { rank: 1, load: null }] };
  const after = { ranks: [{ rank: 0, load: null }, { rank: 1, load: load({ generation_tokens: 5 }) }] };
  const rates = replicaRates(before, after, 1);
  assert.deepEqual([...rates.keys()], [1]);
  assert.equal(rates.get(1).generation, null);
});

test("a sum is of what is known", () => {
  assert.equal(sum([1, null, 2]), 3);
  assert.equal(sum([null]), null);
});

test("the load of experts is that of the time between, and all of it where nothing grew or began anew", () => {
  assert.deepEqual(loadBetween([[1, 2]], [[5, 2]]), [[4, 0]]);
  assert.deepEqual(loadBetween([[5, 2]], [[5, 2]]), [[5, 2]]);
  assert.deepEqual(loadBetween([[9, 2]], [[5, 7]]), [[5, 7]]);
  assert.deepEqual(loadBetween(undefined, [[5, 2]]), [[5, 2]]);
  assert.deepEqual(loadBetween([], [[5, 2]]), [[5, 2]]);
});

test("an expert's load is told against the mean of its layer", () => {
  assert.deepEqual(relative([[1, 3], [0, 0]]), [[0.5, 1.5], [0, 0]]);
  assert.equal(strength(1), 0.25);
  assert.equal(strength(9), 1);
});

test("the hottest experts are those chosen most over all layers", () => {
  assert.deepEqual(hottest([[1, 4, 0], [2, 1, 0]], 5), [
    { expert: 1, share: 5 / 8 },
    { expert: 0, share: 3 / 8 },
  ]);
  assert.deepEqual(hottest([], 5), []);
});

test("numbers are short, and what is not known is a dash", () => {
  assert.deepEqual([0, 7, 0.256, 12.34, 9999, 12345, 3.4e7, null, undefined].map(quantity), ["0", "7", "0.256", "12.3", "9999", "12.3k", "34M", "–", "–"]);
  assert.deepEqual([0, 2e-5, 0.0123, 1.5, null].map(duration), ["0 s", "20 µs", "12.3 ms", "1.5 s", "–"]);
  assert.deepEqual([percent(0.256), percent(null)], ["26 %", "–"]);
  assert.deepEqual([counted(1, "token"), counted(2, "token")], ["1 token", "2 tokens"]);
});
