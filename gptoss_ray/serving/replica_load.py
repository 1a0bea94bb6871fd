"""A replica's load on its way to the autoscaler: figures by name, as Serve carries them."""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from typing import Protocol, TypeVar

from gptoss_ray.ranks.group_load import GroupLoad

MAX_AGE_S = 15.0
"""A replica that was not heard of for longer says nothing; it reports every second."""

_RUNNING = "num_running"
_KV_USE = "kv_use"
_QUEUED = "num_queued"
_QUEUED_TOKENS = "num_queued_tokens"
_FIRST_TOKEN = "first_token_s"

ReplicaT = TypeVar("ReplicaT", bound=Hashable)


class Sample(Protocol):
    """A figure at one moment, as Serve keeps it."""

    timestamp: float
    value: float


def load_figures(load: GroupLoad) -> dict[str, float]:
    """Return a load as Serve takes it; a figure that is not known is left out."""
    figures = {
        _RUNNING: float(load.num_running),
        _KV_USE: float(load.kv_use),
        _QUEUED: float(load.num_queued),
        _QUEUED_TOKENS: float(load.num_queued_tokens),
    }
    return figures if load.first_token_s is None else figures | {_FIRST_TOKEN: load.first_token_s}


def read_loads(
    figures: Mapping[str, Mapping[ReplicaT, Sequence[Sample]]], replicas: Sequence[ReplicaT], now_s: float
) -> list[GroupLoad]:
    """Return the loads of those of these replicas that have told theirs of late.

    Args:
        figures: Samples in order of time, by name and replica.
        replicas: Those that run.
        now_s: Unix time.
    """

    def latest(name: str, replica: ReplicaT) -> float | None:
        samples = figures.get(name, {}).get(replica, ())
        is_known = samples and now_s - samples[-1].timestamp <= MAX_AGE_S
        return samples[-1].value if is_known else None

    loads = []
    for replica in replicas:
        told = [latest(name, replica) for name in (_RUNNING, _KV_USE, _QUEUED, _QUEUED_TOKENS)]
        known = [value for value in told if value is not None]
        if len(known) == len(told):
            running, kv_use, queued, queued_tokens = known
            first_token_s = latest(_FIRST_TOKEN, replica)
            loads.append(GroupLoad(running, kv_use, queued, queued_tokens, first_token_s))
    return loads
