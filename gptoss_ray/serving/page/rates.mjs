// Rates of two answers of the server: totals of the later one less those of the earlier, over the time between.

/** Return what a total grew by a second; null where one is missing or it began anew. */
export function rate(before, after, seconds) {
  if (before === undefined || after === undefined || seconds <= 0 || after < before) return null;
  return (after - before) / seconds;
}

/** Return the share that one total grew by of what another did; null where that did not grow. */
export function share(before, after, part, whole) {
  if (!before || !after || after[whole] <= before[whole] || after[part] < before[part]) return null;
  return (after[part] - before[part]) / (after[whole] - before[whole]);
}

/** Return rates and shares of a rank, of its loads in two answers. */
export function rankRates(before, after, seconds) {
  const of = (name) => rate(before?.[name], after?.[name], seconds);
  return {
    generation: of("generation_tokens"),
    prompt: of("prompt_tokens"),
    rows: of("expert_rows"),
    stepS: share(before, after, "step_s", "steps"),
    allToAll: share(before, after, "all_to_all_s", "step_s"),
  };
}

/** Return the loads of a replica's ranks by number; those that do not answer are missing. */
export function loads(replica) {
  return new Map((replica?.ranks ?? []).filter(({ load }) => load).map(({ rank, load }) => [rank, load]));
}

/** Return the rates of all ranks of a replica, by number. */
export function replicaRates(before, after, seconds) {
  const earlier = loads(before);
  return new Map([...loads(after)].map(([rank, load]) => [rank, rankRates(earlier.get(rank), load, seconds)]));
}

/** Add up what is known; null where nothing is. */
export function sum(values) {
  const known = values.filter((value) => value !== null);
  return known.length ? known.reduce((total, value) => total + value, 0) : null;
}

/** Return how often each expert [layers][experts] was chosen between two answers; all of it without an earlier one. */
export function loadBetween(before, after) {
  const isSame = before?.length === after.length && before.every((layer, i) => layer.length === after[i].length);
  if (!isSame) return after;
  const between = after.map((layer, i) => layer.map((count, expert) => count - before[i][expert]));
  const isGrown = between.some((layer) => layer.some((count) => count > 0));
  const isWhole = between.every((layer) => layer.every((count) => count >= 0));
  return isGrown && isWhole ? between : after;
}
