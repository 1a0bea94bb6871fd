"""Ranks that are measured as processes of this machine, one thread each; they meet between phases."""

from __future__ import annotations

import multiprocessing
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.synchronize import Barrier
from typing import TypeVar

import torch

from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.parallel.rendezvous import free_store_port

TIMEOUT_S = 1800.0
_HOST = "127.0.0.1"

Result = TypeVar("Result")


def local_membership(num_ranks: int) -> GroupMembership:
    """Return a new group of ranks that share this machine's memory."""
    return GroupMembership(
        f"bench-{uuid.uuid4().hex}", 1, ("here",) * num_ranks, _HOST, free_store_port(_HOST)
    )


def run_processes(function: Callable[..., Result], calls: Sequence[tuple[object, ...]]) -> list[Result]:
    """Call `function` with each of these arguments, all at once, each in a process of its own.

    Returns:
        What each call returned. One that fails does not keep the others waiting.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(len(calls), context, _keep, (context.Barrier(len(calls)),)) as pool:
        tasks = [pool.submit(_call, function, arguments) for arguments in calls]
        return [task.result() for task in tasks]


def meet() -> None:
    """Wait until all calls of `run_processes`, of which this is one, have come as far."""
    _barriers[0].wait(TIMEOUT_S)


_barriers: list[Barrier] = []


def _keep(barrier: Barrier) -> None:
    """Keep what only a starting process can be given."""
    _barriers.append(barrier)


def _call(function: Callable[..., Result], arguments: tuple[object, ...]) -> Result:
    torch.set_num_threads(1)
    try:
        return function(*arguments)
    except BaseException:
        _barriers[0].abort()
        raise
