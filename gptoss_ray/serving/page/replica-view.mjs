// One replica: its stage and epoch, its ranks, its experts, and what happened to it.

import { element } from "./dom.mjs";
import { eventList } from "./event-list.mjs";
import { ExpertMap } from "./expert-map.mjs";
import { counted, duration, quantity } from "./format.mjs";
import { rankTable } from "./rank-table.mjs";
import { loadBetween, replicaRates, sum } from "./rates.mjs";

const STAGES = { serving: "serving", preparing: "healing", joining: "healing", given_up: "given up" };

export class ReplicaView {
  constructor() {
    this.title = element("h3", {});
    this.summary = element("p", { class: "replica-summary" });
    this.table = element("div", {});
    this.map = new ExpertMap();
    this.events = element("div", {});
    this.element = element(
      "section",
      { class: "replica" },
      element("div", { class: "replica-head" }, this.title, this.summary),
      this.table,
      element(
        "div",
        { class: "replica-foot" },
        this.map.element,
        element("section", { class: "happenings", "aria-label": "Events" }, element("h4", {}, "Events"), this.events),
      ),
    );
  }

  /** Show a replica; `before` is what it told earlier. Returns its output tokens a second. */
  update(replica, before, seconds) {
    const rates = replicaRates(before, replica, seconds);
    const stage = STAGES[replica.stage] ?? replica.stage;
    this.title.replaceChildren(
      `Replica ${replica.id} `,
      element("span", { class: `badge is-${replica.stage === "serving" ? "fine" : "alarming"}` }, stage),
    );
    this.summary.textContent = [
      `epoch ${replica.epoch}`,
      `${counted(replica.members.length, "member")} of ${counted(replica.ranks.length, "rank")}`,
      `placement ${replica.placement}`,
      `${quantity(replica.queued)} queued (${counted(replica.queued_tokens, "token")})`,
      `${duration(replica.healing_s)} spent healing`,
    ].join(" · ");
    this.keepingScroll(() => this.table.replaceChildren(rankTable(replica, rates, `Ranks of replica ${replica.id}`)));
    this.map.update(loadBetween(before?.expert_load, replica.expert_load));
    this.events.replaceChildren(eventList(replica.events));
    return sum([...rates.values()].map((rank) => rank.generation));
  }

  /** The table is made anew: what had the focus in it, and how far it was scrolled, stay. */
  keepingScroll(replace) {
    const box = this.table.firstElementChild;
    const [left, hadFocus] = [box?.scrollLeft ?? 0, box !== null && box === document.activeElement];
    replace();
    this.table.firstElementChild.scrollLeft = left;
    if (hadFocus) this.table.firstElementChild.focus({ preventScroll: true });
  }
}
