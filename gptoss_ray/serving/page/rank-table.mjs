// The ranks of a replica, a row each.

import { element } from "./dom.mjs";
import { duration, percent, quantity } from "./format.mjs";
import { sum } from "./rates.mjs";

const COLUMNS = [
  ["Rank", "Number in its group"],
  ["Host", "Address of its node"],
  ["State", "Whether it takes requests"],
  ["Running", "Sequences that own KV blocks"],
  ["Waiting", "Sequences that wait for a seat or for KV blocks"],
  ["KV cache", "Share of KV blocks in use"],
  ["Output/s", "Tokens drawn a second"],
  ["Prompt/s", "Prompt tokens taken a second"],
  ["Step", "Mean time of a step"],
  ["All-to-all", "Share of the time in steps: tokens on their way, and waiting for other ranks"],
  ["Expert load", "Share of the rows that the experts of all ranks worked on"],
];

/** `rates` are those of `replicaRates`. */
export function rankTable(replica, rates, label) {
  const rows = sum([...rates.values()].map((rank) => rank.rows));
  return element(
    "div",
    { class: "table-box", role: "region", "aria-label": label, tabindex: "0" },
    element(
      "table",
      { class: "ranks" },
      element("caption", { class: "visually-hidden" }, label),
      element("thead", {}, element("tr", {}, ...COLUMNS.map(([name, title]) => element("th", { scope: "col", title }, name)))),
      element("tbody", {}, ...replica.ranks.map((rank) => row(replica, rank, rates.get(rank.rank), rows))),
    ),
  );
}

function row(replica, { rank, host, load }, rates, rows) {
  const member = replica.members.find((name) => Number.parseInt(name, 10) === rank);
  return element(
    "tr",
    { class: load ? null : "is-missing" },
    element("th", { scope: "row" }, member ?? String(rank)),
    element("td", { class: "host" }, host),
    element("td", {}, load ? "serving" : member ? "silent" : "missing"),
    element("td", {}, quantity(load?.running)),
    element("td", {}, quantity(load?.waiting)),
    element("td", {}, load ? meter(load.kv_usage, "KV cache in use") : "–"),
    element("td", {}, quantity(rates?.generation)),
    element("td", {}, quantity(rates?.prompt)),
    element("td", {}, duration(rates?.stepS)),
    element("td", {}, percent(rates?.allToAll)),
    element("td", {}, rows && rates ? meter((rates.rows ?? 0) / rows, "Share of the expert load") : "–"),
  );
}

function meter(value, label) {
  return element(
    "span",
    { class: "meter" },
    element("progress", { max: "1", value: String(value), "aria-label": label }),
    element("span", {}, percent(value)),
  );
}
