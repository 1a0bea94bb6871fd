"""Ranks in processes of their own, for what threads cannot show: wires, deaths, one group per process."""

from __future__ import annotations

import functools
import itertools
import os
import signal
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import Any

import torch

from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.group_link import GroupLink
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.parallel.rendezvous import free_store_port

STORE_HOST = "127.0.0.1"
_group_numbers = itertools.count()

Work = Callable[..., Any]
"""A function of a test module: work(link, *args), called on every rank with the group formed.

It returns plain data; a tensor would travel as a file descriptor of a process that may be gone.
"""


class RankProcesses:
    """Processes that are kept between tests, since each takes seconds to start; rank 0 is the first."""

    def __init__(self) -> None:
        self._executors: dict[int, ProcessPoolExecutor] = {}

    def run(self, work: Work, *args: object, hosts: Sequence[str], config: ParallelConfig) -> list[Any]:
        """Run `work` on one rank per entry of `hosts` (equal ids share a host); returns what each returned.

        A rank's error is raised here; GroupBrokenError, which the other ranks then see, only if alone.
        """
        futures = self.start(work, *args, hosts=hosts, config=config)
        errors = [error for future in futures if (error := future.exception()) is not None]
        for error in sorted(errors, key=lambda error: isinstance(error, GroupBrokenError)):
            raise error
        return [future.result() for future in futures]

    def start(
        self, work: Work, *args: object, hosts: Sequence[str], config: ParallelConfig
    ) -> list[Future[Any]]:
        """Start `work` on every rank; a killed rank's future raises BrokenProcessPool."""
        membership = fresh_membership(hosts)
        return [
            self._submit(rank, _join_and_work, rank, config, membership, work, args)
            for rank in range(len(hosts))
        ]

    def kill(self, rank: int) -> None:
        """Kill the rank's process (SIGKILL); the next test gets a new one."""
        (process,) = self._executors.pop(rank)._processes.values()
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)

    def _submit(self, rank: int, function: Callable[..., Any], *args: object) -> Future[Any]:
        try:
            return self._executor(rank).submit(function, *args)
        except BrokenProcessPool:  # a rank that killed itself in an earlier test
            del self._executors[rank]
            return self._executor(rank).submit(function, *args)

    def _executor(self, rank: int) -> ProcessPoolExecutor:
        if rank not in self._executors:
            self._executors[rank] = ProcessPoolExecutor(1, get_context("spawn"), initializer=_prepare)
        return self._executors[rank]


@functools.cache
def rank_processes() -> RankProcesses:
    """Return the processes that all tests of this run share."""
    return RankProcesses()


def fresh_membership(hosts: Sequence[str]) -> GroupMembership:
    """A group that no other test has, with its store on a free port of this machine."""
    group_id = f"test-{os.getpid()}-{next(_group_numbers)}"
    return GroupMembership(group_id, 1, tuple(hosts), STORE_HOST, free_store_port(STORE_HOST))


def _prepare() -> None:
    warnings.simplefilter("error")
    torch.set_num_threads(1)


def _join_and_work(
    rank: int, config: ParallelConfig, membership: GroupMembership, work: Work, args: tuple[object, ...]
) -> Any:
    link = GroupLink(rank, config)
    try:
        link.join(membership)
        return work(link, *args)
    finally:
        link.leave()  # so that the others notice when this rank raised
