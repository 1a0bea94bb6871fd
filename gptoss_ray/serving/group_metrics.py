"""What replicas and their ranks tell of themselves, as metrics; made anew for each scrape, and kept nowhere.

Labels are `model`, `replica`, and one more at most: a rank, an expert or a kind of event. So there are as
many series as there are ranks and experts that serve now, and no request adds any.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from gptoss_ray.ranks.engine_rank import RankStats
    from gptoss_ray.ranks.group_stats import GroupStats

Replicas = Mapping[str, Sequence["GroupStats"]]
"""What each model's replicas tell."""

RANK_GAUGES: dict[str, tuple[str, Callable[[RankStats], float]]] = {
    "sequences_running": ("Sequences that own KV blocks.", lambda rank: rank.engine.num_running),
    "sequences_waiting": (
        "Sequences that wait at a rank for a seat or for KV blocks.",
        lambda rank: rank.engine.num_waiting,
    ),
    "kv_cache_usage_ratio": ("Share of KV blocks in use.", lambda rank: rank.engine.kv_cache_usage),
    "kv_cache_blocks": ("KV blocks, in use or not.", lambda rank: rank.engine.num_kv_blocks),
}
RANK_COUNTERS: dict[str, tuple[str, Callable[[RankStats], float]]] = {
    "preemptions": ("Sequences that lost their KV blocks.", lambda rank: rank.engine.num_preemptions),
    "prefix_cache_queries": (
        "Tokens looked up in the prefix cache.",
        lambda rank: rank.engine.prefix_cache_queries,
    ),
    "prefix_cache_hits": ("Tokens found there.", lambda rank: rank.engine.prefix_cache_hits),
    "drafts": ("Drafts of tokens to come that steps have checked.", lambda rank: rank.engine.num_drafts),
    "draft_tokens": ("Their tokens.", lambda rank: rank.engine.num_draft_tokens),
    "accepted_draft_tokens": (
        "Of them, those that became output: steps that were saved.",
        lambda rank: rank.engine.num_accepted_tokens,
    ),
    "rank_prompt_tokens": (
        "Tokens of the prompts that a rank has taken.",
        lambda rank: rank.engine.num_prompt_tokens,
    ),
    "rank_generation_tokens": (
        "Tokens that a rank has drawn.",
        lambda rank: rank.engine.num_generation_tokens,
    ),
    "rank_steps": ("Steps completed.", lambda rank: rank.engine.num_steps),
    "rank_failed_steps": ("Steps that failed or broke off.", lambda rank: rank.num_failed_steps),
    "rank_step_seconds": ("Time in steps.", lambda rank: rank.step_s),
    "rank_all_to_all_seconds": (
        "Of that, time in all-to-alls: tokens on their way, and waiting for other ranks.",
        lambda rank: rank.engine.all_to_all_s,
    ),
    "rank_expert_rows": (
        "Rows that a rank's experts have worked on, of any rank's tokens.",
        lambda rank: rank.engine.num_expert_rows,
    ),
}
GROUP_GAUGES: dict[str, tuple[str, Callable[[GroupStats], float]]] = {
    "requests_queued": ("Requests that wait for a rank of a replica.", lambda group: group.num_queued),
    "queued_tokens": (
        "What those are thought to come to, prompts and outputs.",
        lambda group: group.num_queued_tokens,
    ),
    "group_epoch": ("The newest epoch of a group.", lambda group: group.epoch),
    "group_members": ("Ranks of that epoch.", lambda group: len(group.members)),
    "group_open_ranks": ("Ranks that take requests and answer.", lambda group: len(group.ranks)),
    "group_serving": ("1 while a group steps, 0 while it changes.", lambda group: group.stage == "serving"),
}
GROUP_COUNTERS: dict[str, tuple[str, Callable[[GroupStats], float]]] = {
    "group_healing_seconds": (
        "Time in which a group made nothing, between two epochs.",
        lambda group: group.healing_s,
    ),
}


def group_families(replicas: Replicas) -> list[Metric]:
    """Return the metrics of all replicas of all models."""
    return [*_of_groups(replicas), *_of_ranks(replicas)]


def _of_groups(replicas: Replicas) -> Iterable[Metric]:
    count = GaugeMetricFamily("gptoss_replicas", "Replicas that answer.", labels=["model"])
    for model, groups in replicas.items():
        count.add_metric([model], len(groups))
    yield count
    labels = ["model", "replica"]
    for kind, table in ((GaugeMetricFamily, GROUP_GAUGES), (CounterMetricFamily, GROUP_COUNTERS)):
        for name, (text, read) in table.items():
            family = kind(f"gptoss_{name}", text, labels=labels)
            for model, group in _all(replicas):
                family.add_metric([model, group.replica], float(read(group)))
            yield family
    events = CounterMetricFamily(
        "gptoss_group_events", "What happened to a group, by kind.", labels=[*labels, "kind"]
    )
    experts = CounterMetricFamily(
        "gptoss_expert_tokens",
        "How often tokens chose an expert, over all layers and ranks; of groups of several ranks.",
        labels=[*labels, "expert"],
    )
    for model, group in _all(replicas):
        for event, number in group.num_events.items():
            events.add_metric([model, group.replica, event], number)
        for expert, number in enumerate(tokens_per_expert(group)):
            experts.add_metric([model, group.replica, str(expert)], number)
    yield events
    yield experts


def _of_ranks(replicas: Replicas) -> Iterable[Metric]:
    for kind, table in ((GaugeMetricFamily, RANK_GAUGES), (CounterMetricFamily, RANK_COUNTERS)):
        for name, (text, read) in table.items():
            family = kind(f"gptoss_{name}", text, labels=["model", "replica", "rank"])
            for model, group in _all(replicas):
                for rank in group.ranks:
                    family.add_metric([model, group.replica, str(rank.rank)], float(read(rank)))
            yield family


def tokens_per_expert(group: GroupStats) -> list[int]:
    """Return how often each expert was chosen, over all layers and ranks."""
    return [sum(column) for column in zip(*expert_load(group), strict=True)]


def expert_load(group: GroupStats) -> list[list[int]]:
    """Return how often each expert [layers][E] was chosen by the tokens of any rank."""
    loads = [rank.engine.expert_load for rank in group.ranks if rank.engine.expert_load]
    return [[sum(counts) for counts in zip(*layers, strict=True)] for layers in zip(*loads, strict=True)]


def _all(replicas: Replicas) -> list[tuple[str, GroupStats]]:
    return [(model, group) for model, groups in replicas.items() for group in groups]
