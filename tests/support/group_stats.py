"""A replica's report as a healed group of two ranks would make it."""

from __future__ import annotations

from dataclasses import replace

from gptoss_ray.engine.scripted_engine import ScriptedEngine
from gptoss_ray.ranks.engine_rank import RankStats
from gptoss_ray.ranks.group_events import EventKind, GroupEvents
from gptoss_ray.ranks.group_stats import GroupStats

LOADS = (((1, 2, 3, 4), (5, 6, 7, 8)), ((10, 20, 30, 40), (50, 60, 70, 80)))
"""Of two ranks: how often each chose the four experts of two layers."""
NOW = 1_750_000_000.0


def rank_stats(number: int, **fields: object) -> RankStats:
    """Return what a rank tells; `fields` are those of its engine."""
    engine = ScriptedEngine(lambda request: range(5)).stats()
    measured = {
        "num_running": 3 + number,
        "num_waiting": number,
        "kv_cache_usage": 0.25 + number / 2,
        "num_kv_blocks": 100,
        "num_steps": 500,
        "num_prompt_tokens": 7000,
        "num_generation_tokens": 2000 + number,
        "num_preemptions": number,
        "expert_load": LOADS[number],
        "num_expert_rows": 4000 + number,
        "all_to_all_s": 1.5,
    }
    return RankStats(number, replace(engine, **measured | fields), 3, 1, 900, step_s=6.0)  # type: ignore[arg-type]


def healed_group(replica: str = "replica-a") -> GroupStats:
    """Return what a replica tells whose rank 1 was lost and replaced."""
    events = GroupEvents(clock=lambda: NOW)
    events.note(EventKind.RANK_LOST, 1, "rank 1")
    events.note(EventKind.EPOCH_GRANTED, 2, "members 0")
    events.note(EventKind.EPOCH_GRANTED, 3, "members 0,1.1")
    return GroupStats(
        replica=replica,
        stage="serving",
        epoch=3,
        members=("0", "1.1"),
        hosts={0: "10.0.0.1", 1: "10.0.0.2"},
        ranks=(rank_stats(0), rank_stats(1)),
        num_queued=4,
        num_queued_tokens=900,
        healing_s=0.75,
        num_events=events.counts,
        events=events.latest,
    )
