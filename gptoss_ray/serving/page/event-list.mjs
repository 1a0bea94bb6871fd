// What happened to a group, the latest first.

import { element } from "./dom.mjs";
import { timeOfDay } from "./format.mjs";

const NAMES = {
  rank_lost: "Rank lost",
  rank_replaced: "Rank replaced",
  replacement_failed: "Replacement failed",
  epoch_broke: "Epoch broke",
  epoch_granted: "Epoch granted",
  experts_swapped: "Experts swapped",
  given_up: "Group given up",
};
const ALARMING = new Set(["rank_lost", "replacement_failed", "epoch_broke", "given_up"]);
const MAX_SHOWN = 12;

/** Return a list of the events, or a sentence where there are none. */
export function eventList(events) {
  if (!events.length) return element("p", { class: "hint" }, "Nothing has happened to this replica.");
  return element("ol", { class: "events" }, ...events.slice(-MAX_SHOWN).reverse().map(item));
}

function item({ time, kind, epoch, detail }) {
  return element(
    "li",
    { class: ALARMING.has(kind) ? "is-alarming" : null },
    element("time", { datetime: new Date(time * 1000).toISOString() }, timeOfDay(time)),
    element("strong", {}, NAMES[kind] ?? kind),
    element("span", {}, `epoch ${epoch}, ${detail}`),
  );
}
