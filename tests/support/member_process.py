"""A rank of a group in a process of its own, without Ray: an `EngineRank` that is called through a pipe."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import threading
import warnings
from collections.abc import Callable
from multiprocessing import get_context
from multiprocessing.connection import Connection
from typing import Any

import torch

from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import RankDiedError
from gptoss_ray.ranks.recovery import RankId

SINK = "sink"
POINTS = {
    "mid-dispatch": ("gptoss_ray.parallel.expert_routes", "ExpertRoutes", "group"),
    "before combine": ("gptoss_ray.parallel.all_to_all", "AllToAllTokenDispatcher", "combine"),
    "before commit": ("gptoss_ray.engine.scheduler", "Scheduler", "commit"),
    "in prefill": ("gptoss_ray.engine.model_runner", "ModelRunner", "run"),
    "while it reads experts": ("gptoss_ray.model.expert_shard", "ExpertShard", "with_experts"),
    "while it joins": ("gptoss_ray.parallel.group_link", "GroupLink", "join"),
}
"""Where a rank can be told to end or to stop: module, class, method."""

Message = tuple[int, Any, BaseException | None]
TOKENS, FIRED = 0, -1
"""Numbers of messages that answer no call: outputs, and that a fault was met."""


class MemberProcess:
    """The parent's side.

    Args:
        rank: Which it is.
        config: Of the group.
        note: Called in the event loop with each list of outputs, and with the name of each fault that is met.
    """

    def __init__(self, rank: RankId, config: ServedModelConfig, note: Callable[[RankId, Any], None]) -> None:
        self.rank = rank
        self._note = note
        self._loop = asyncio.get_running_loop()
        self._calls: dict[int, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        self._is_dead = False
        context = get_context("spawn")
        self._connection, theirs = context.Pipe()
        self.process = context.Process(target=_serve, args=(theirs, rank.number, config), daemon=True)
        self.process.start()
        theirs.close()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    async def call(self, method: str, *args: object) -> Any:
        """Call a method of the rank."""
        if self._is_dead:
            raise self._died()
        number = next(self._numbers)
        future = self._calls[number] = self._loop.create_future()
        with contextlib.suppress(OSError):  # the reader will notice
            self._connection.send((number, method, args))
        return await future

    def kill(self) -> None:
        """End it as the kernel would for want of memory."""
        self.signal(signal.SIGKILL)

    def signal(self, number: int) -> None:
        if self.process.is_alive():
            assert self.process.pid is not None
            os.kill(self.process.pid, number)

    def join(self) -> None:
        self.process.join(30)
        self._reader.join(30)
        self._connection.close()

    def _read(self) -> None:
        with contextlib.suppress(EOFError, OSError):
            while True:
                message = self._connection.recv()
                self._loop.call_soon_threadsafe(self._take, message)
        with contextlib.suppress(RuntimeError):  # the event loop is closed
            self._loop.call_soon_threadsafe(self._end)

    def _take(self, message: Message) -> None:
        number, result, error = message
        if number <= TOKENS:
            self._note(self.rank, result)
            return
        future = self._calls.pop(number)
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def _end(self) -> None:
        self._is_dead = True
        for future in self._calls.values():
            if not future.done():
                future.set_exception(self._died())
        self._calls.clear()

    def _died(self) -> RankDiedError:
        return RankDiedError(f"rank {self.rank} died", rank=self.rank)


def _serve(connection: Connection, number: int, config: ServedModelConfig) -> None:
    """Be the rank."""
    warnings.simplefilter("error")
    torch.set_num_threads(1)
    asyncio.run(_Member(connection, number, config).run())


class _Member:
    def __init__(self, connection: Connection, number: int, config: ServedModelConfig) -> None:
        from gptoss_ray.ranks.engine_rank import EngineRank

        self._connection = connection
        self._rank = EngineRank(config, number)
        self._sending = threading.Lock()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self) -> None:
        loop = asyncio.get_running_loop()
        self._begin(self._stream())
        while True:
            try:
                message = await loop.run_in_executor(None, self._connection.recv)
            except EOFError:
                os._exit(0)
            self._begin(self._answer(*message))

    def _begin(self, work: Any) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, number: int, method: str, args: tuple[object, ...]) -> None:
        target = self if method in ("arm", "live_request_ids") else self._rank
        try:
            result = await getattr(target, method)(*args)
        except Exception as error:
            self._send((number, None, error))
        else:
            self._send((number, result, None))

    async def _stream(self) -> None:
        async for outputs in self._rank.token_stream(SINK):
            self._send((TOKENS, outputs, None))

    async def arm(self, point: str, after: int, signal_number: int) -> None:
        """Send this process a signal at the n-th passing of a point."""
        passings = itertools.count(1)
        module, class_name, method = POINTS[point]
        owner = getattr(__import__(module, fromlist=[class_name]), class_name)
        original = getattr(owner, method)

        def passing(*args: Any, **kwargs: Any) -> Any:
            is_meant = point != "in prefill" or any(chunk.num_tokens > 1 for chunk in args[1].chunks)
            if is_meant and next(passings) == after:
                self._send((FIRED, point, None))
                os.kill(os.getpid(), signal_number)
            return original(*args, **kwargs)

        setattr(owner, method, passing)

    async def live_request_ids(self) -> list[str]:
        return sorted(self._rank._ended)

    def _send(self, message: Message) -> None:
        with self._sending, contextlib.suppress(OSError):
            self._connection.send(message)
