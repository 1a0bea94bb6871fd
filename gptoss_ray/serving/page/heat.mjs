// What a map of experts shows: each expert's load against the mean of its layer, and which are the hottest.

/** Return loads [layers][experts] over the mean of their layer; 1 is even, and a layer without load is 0. */
export function relative(load) {
  return load.map((layer) => {
    const mean = layer.reduce((total, count) => total + count, 0) / layer.length;
    return layer.map((count) => (mean ? count / mean : 0));
  });
}

/** Return {expert, share} of the experts that were chosen most over all layers, the hottest first. */
export function hottest(load, number) {
  const experts = (load[0] ?? []).map((_, expert) => ({
    expert,
    count: load.reduce((total, layer) => total + layer[expert], 0),
  }));
  const all = experts.reduce((total, { count }) => total + count, 0);
  return experts
    .filter(({ count }) => count > 0)
    .sort((a, b) => b.count - a.count || a.expert - b.expert)
    .slice(0, number)
    .map(({ expert, count }) => ({ expert, share: count / all }));
}

/** Return how strongly a cell is coloured, 0 to 1: the mean is a quarter, four times the mean and more is all. */
export function strength(value) {
  return Math.min(1, value / 4);
}
