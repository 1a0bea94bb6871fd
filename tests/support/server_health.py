"""What a server must be again after a fault: no blocks in use, processes and open files as before."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass

from gptoss_ray.serving.session_processes import session_processes
from tests.support.served_app import ServedApp

_ROLES = ("EngineRank", "EngineReplica", "Ingress", "ProxyActor", "ServeController")
_MAX_MORE_FILES = 24
"""Connections that Ray opens to a process that came in the place of another."""
_MAX_MORE_BYTES = 64 << 20


@dataclass(frozen=True)
class ServerHealth:
    """A server with nothing to do.

    Attributes:
        processes: How many there are of each role.
        replicas: What Serve says of them: how many of each deployment are in which state.
        num_files: Open files of the ingress and of Serve's proxies.
        num_bytes: Private memory of these.
    """

    processes: Counter[str]
    replicas: dict[str, dict[str, int]]
    num_files: int
    num_bytes: int

    @classmethod
    def read(cls, served: ServedApp) -> ServerHealth:
        """Read it now."""
        titles = [" ".join(process.cmdline()) for process in session_processes(served.session_id)]
        lasting = [*served.processes("Ingress"), *served.processes("ProxyActor")]
        return cls(
            Counter(role for title in titles for role in _ROLES if role in title),
            served.ask("replicas"),
            sum(process.num_fds() for process in lasting),
            sum(process.memory_full_info().uss for process in lasting),
        )


def check_health(served: ServedApp, before: ServerHealth, *, within_s: float = 120.0) -> None:
    """Wait until the server is as it was before a fault; fail where it does not come to that."""
    deadline = time.monotonic() + within_s
    while problem := _difference(served, before):
        assert time.monotonic() < deadline, problem
        time.sleep(0.5)


def _difference(served: ServedApp, before: ServerHealth) -> str:
    now = ServerHealth.read(served)
    if now.processes != before.processes:
        return f"processes were {dict(before.processes)} and are {dict(now.processes)}"
    if now.replicas != before.replicas:
        return f"replicas were {before.replicas} and are {now.replicas}"
    if now.num_files > before.num_files + _MAX_MORE_FILES:
        return f"open files were {before.num_files} and are {now.num_files}"
    if now.num_bytes > before.num_bytes + _MAX_MORE_BYTES:
        return f"private memory was {before.num_bytes >> 20} MiB and is {now.num_bytes >> 20} MiB"
    return _problem_of_ranks(served, before.processes["EngineRank"])


def _problem_of_ranks(served: ServedApp, num_ranks: int) -> str:
    ranks = served.ask("all stats")
    if len(ranks) != num_ranks:
        return f"{len(ranks)} of {num_ranks} ranks take requests"
    for rank in ranks:
        engine = rank["engine"]
        if rank["num_live_requests"] or engine["num_running"] or engine["num_waiting"]:
            return f"rank {rank['rank']} still works on requests"
        if engine["kv_cache_usage"] > 0:
            return f"rank {rank['rank']} still has {engine['kv_cache_usage']:.1%} of its KV blocks in use"
    return ""
