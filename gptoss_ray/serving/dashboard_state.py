"""What the dashboard shows, as JSON: all models, their replicas and ranks, at one moment.

Totals count from the start of a rank; the page makes rates of two answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING

from prometheus_client.metrics_core import Metric
from typing_extensions import TypedDict

from gptoss_ray.serving.group_metrics import Replicas, expert_load

if TYPE_CHECKING:
    from gptoss_ray.ranks.engine_rank import RankStats
    from gptoss_ray.ranks.group_stats import GroupStats


class RankLoad(TypedDict):
    """Of a rank that takes requests; `_s` are seconds, `kv_usage` is a share."""

    running: int
    waiting: int
    kv_usage: float
    kv_blocks: int
    preemptions: int
    prompt_tokens: int
    generation_tokens: int
    prefix_queries: int
    prefix_hits: int
    steps: int
    failed_steps: int
    step_s: float
    all_to_all_s: float
    expert_rows: int


class RankState(TypedDict):
    """One rank; `load` is null while it takes no requests, or does not answer."""

    rank: int
    host: str
    load: RankLoad | None


class EventState(TypedDict):
    """What happened to a group, and when (Unix time)."""

    time: float
    kind: str
    epoch: int
    detail: str


class ReplicaState(TypedDict):
    """One copy of a model; `expert_load` is [layers][experts], empty of a rank alone."""

    id: str
    stage: str
    epoch: int
    members: list[str]
    placement: int
    queued: int
    queued_tokens: int
    healing_s: float
    ranks: list[RankState]
    expert_load: list[list[int]]
    events: list[EventState]


class ModelState(TypedDict):
    """One model; the first four are of all ingress replicas together."""

    name: str
    in_progress: int
    choices: int
    failures: int
    migrations: int
    replicas: list[ReplicaState]


class DashboardState(TypedDict):
    """All of it; `time` is Unix time in seconds."""

    time: float
    version: str
    models: list[ModelState]


def dashboard_state(
    measured: Mapping[str, Sequence[Metric]], replicas: Replicas, now_s: float
) -> DashboardState:
    """Put together what ingress replicas have measured and what engine replicas tell."""
    models: list[ModelState] = [
        {
            "name": name,
            "in_progress": _total(measured, "gptoss_choices_in_progress", name),
            "choices": _total(measured, "gptoss_choices_total", name),
            "failures": _total(measured, "gptoss_failures_total", name),
            "migrations": _total(measured, "gptoss_migrations_total", name),
            "replicas": [_replica(group) for group in sorted(groups, key=lambda group: group.replica)],
        }
        for name, groups in replicas.items()
    ]
    return {"time": now_s, "version": version("gptoss-ray"), "models": models}


def _total(measured: Mapping[str, Sequence[Metric]], name: str, model: str) -> int:
    """Add up the series of a metric that are of a model."""
    samples = [sample for families in measured.values() for family in families for sample in family.samples]
    return int(sum(s.value for s in samples if s.name == name and s.labels["model"] == model))


def _replica(group: GroupStats) -> ReplicaState:
    answered = {rank.rank: rank for rank in group.ranks}
    return {
        "id": group.replica,
        "stage": group.stage,
        "epoch": group.epoch,
        "members": list(group.members),
        "placement": max((rank.engine.placement for rank in group.ranks), default=0),
        "queued": group.num_queued,
        "queued_tokens": group.num_queued_tokens,
        "healing_s": group.healing_s,
        "ranks": [
            {"rank": number, "host": host, "load": _load(answered[number]) if number in answered else None}
            for number, host in sorted(group.hosts.items())
        ],
        "expert_load": expert_load(group),
        "events": [
            {"time": event.time, "kind": event.kind, "epoch": event.epoch, "detail": event.detail}
            for event in group.events
        ],
    }


def _load(rank: RankStats) -> RankLoad:
    engine = rank.engine
    return {
        "running": engine.num_running,
        "waiting": engine.num_waiting,
        "kv_usage": engine.kv_cache_usage,
        "kv_blocks": engine.num_kv_blocks,
        "preemptions": engine.num_preemptions,
        "prompt_tokens": engine.num_prompt_tokens,
        "generation_tokens": engine.num_generation_tokens,
        "prefix_queries": engine.prefix_cache_queries,
        "prefix_hits": engine.prefix_cache_hits,
        "steps": engine.num_steps,
        "failed_steps": rank.num_failed_steps,
        "step_s": rank.step_s,
        "all_to_all_s": engine.all_to_all_s,
        "expert_rows": engine.num_expert_rows,
    }
