// One model: figures, the trend of its output, and its replicas.

import { element } from "./dom.mjs";
import { figuresElement } from "./figures.mjs";
import { percent, quantity } from "./format.mjs";
import { loads, rate, sum } from "./rates.mjs";
import { ReplicaView } from "./replica-view.mjs";
import { Trend } from "./trend.mjs";

export class ModelView {
  constructor(name) {
    this.head = element("div", { class: "model-head" });
    this.replicas = new Map();
    this.list = element("div", { class: "replicas" });
    this.trend = new Trend();
    this.element = element("section", { class: "model-view", "aria-label": name }, element("h2", {}, name), this.head, this.list);
  }

  /** Show a model; `before` is what was told earlier. */
  update(model, before, seconds) {
    const earlier = new Map((before?.replicas ?? []).map((replica) => [replica.id, replica]));
    const shown = new Map();
    const outputs = model.replicas.map((replica) => {
      const view = this.replicas.get(replica.id) ?? new ReplicaView();
      shown.set(replica.id, view);
      if (!view.element.isConnected) this.list.append(view.element);
      return view.update(replica, earlier.get(replica.id), seconds);
    });
    for (const [id, view] of this.replicas) if (!shown.has(id)) view.element.remove();
    this.replicas = shown;
    const output = sum(outputs);
    this.trend.add(output);
    this.head.replaceChildren(figuresElement(figures(model, before, seconds, output)), this.trend.draw("Output tokens a second"));
  }
}

function figures(model, before, seconds, output) {
  const ranks = model.replicas.flatMap((replica) => replica.ranks);
  const working = model.replicas.flatMap((replica) => [...loads(replica).values()]);
  const total = (name) => working.reduce((all, load) => all + load[name], 0);
  const [queries, queued] = [total("prefix_queries"), model.replicas.reduce((all, each) => all + each.queued, 0)];
  const blocks = total("kv_blocks");
  const used = working.reduce((all, load) => all + load.kv_usage * load.kv_blocks, 0);
  return [
    ["Output tokens/s", quantity(output), "Drawn by all ranks, reasoning included"],
    ["In progress", quantity(model.in_progress), "Choices that wait for tokens or get them"],
    ["Queued", quantity(queued), "Requests that wait for a rank"],
    ["Ended/s", quantity(rate(before?.choices, model.choices, seconds)), "Choices that came to their end"],
    ["Failed", quantity(model.failures), "Choices that failed since the start"],
    ["Migrations", quantity(model.migrations), "Lost requests that went on elsewhere"],
    ["KV cache", percent(blocks ? used / blocks : null), "Share of all KV blocks in use"],
    ["Prefix hits", percent(queries ? total("prefix_hits") / queries : null), "Share of looked-up tokens that were cached"],
    ["Replicas", quantity(model.replicas.length), "Replicas that answer"],
    ["Ranks", `${working.length} of ${ranks.length}`, "Ranks that take requests"],
  ];
}
