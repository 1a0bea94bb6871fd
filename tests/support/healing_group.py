"""A group of ranks in processes, kept by a `GroupKeeper`, and a client that sends lost requests again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import RankDiedError
from gptoss_ray.generation import FinishReason, GenerationRequest, TokenOutput
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.parallel.rendezvous import free_store_port
from gptoss_ray.ranks.group_keeper import GroupKeeper
from gptoss_ray.ranks.rank_facts import RankFacts
from gptoss_ray.ranks.recovery import FIRST_EPOCH, RankId
from tests.support.engine_runs import Answer
from tests.support.member_process import SINK, MemberProcess
from tests.support.rank_processes import STORE_HOST

PATIENCE_S = 120.0


def facts(host_id: str = "here") -> RankFacts:
    return RankFacts(host_id, STORE_HOST, 1 << 40, "one kind", "checkpoint", is_native=False)


@dataclass
class Stream:
    """One request as its client sees it; `gaps_s` are the times between its outputs."""

    request: GenerationRequest
    rank: RankId
    answer: Answer = field(default_factory=Answer)
    num_resumed: int = 0
    gaps_s: list[float] = field(default_factory=list)
    last_at: float = 0.0
    attempt: str = ""

    @property
    def is_over(self) -> bool:
        return self.answer.finish_reason is not None


class HealingGroup:
    """Implements `GroupRanks`, and collects what the ranks emit."""

    def __init__(self, config: ServedModelConfig, hosts: str | None = None) -> None:
        self.config = config
        self.hosts = hosts or "A" * config.parallel.num_ranks
        self.processes: dict[RankId, MemberProcess] = {}
        self.streams: dict[str, Stream] = {}
        self.fired: list[tuple[RankId, str]] = []
        self.ended: list[RankId] = []
        self.late: list[TokenOutput] = []
        self.faults_of_replacements: list[tuple[str, int, int]] = []
        self.keeper: GroupKeeper
        self._changed = asyncio.Event()
        self._group_id = f"test-{id(self)}-{time.monotonic_ns()}"

    async def __aenter__(self) -> HealingGroup:
        ranks = [RankId(number) for number in range(self.config.parallel.num_ranks)]
        for rank in ranks:
            self.processes[rank] = MemberProcess(rank, self.config, self._note)
        await asyncio.gather(*(self.ask(rank, "load") for rank in ranks))
        membership = GroupMembership(
            self._group_id, FIRST_EPOCH, tuple(self.hosts), STORE_HOST, free_store_port(STORE_HOST)
        )
        await asyncio.gather(*(self.ask(rank, "start", membership) for rank in ranks))
        model = CheckpointReader.open(self.config.checkpoint).config
        facts_of = {rank: facts(self.hosts[rank.number]) for rank in ranks}
        self.keeper = GroupKeeper(self.config, model, self, self._group_id, facts_of)
        self._keeping = asyncio.create_task(self.keeper.run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._keeping.cancel()
        await asyncio.wait((self._keeping,))
        for process in self.processes.values():
            process.kill()
        for process in self.processes.values():
            await asyncio.to_thread(process.join)

    # What the keeper calls

    async def ask(self, rank: RankId, method: str, *args: object) -> Any:
        return await self.processes[rank].call(method, *args)

    async def start(self, rank: RankId) -> RankFacts:
        self.processes[rank] = MemberProcess(rank, self.config, self._note)
        if self.faults_of_replacements:
            await self.ask(rank, "arm", *self.faults_of_replacements.pop(0))
        await self.ask(rank, "load")
        await self.ask(rank, "stand_by")
        return facts(self.hosts[rank.number])

    def end(self, rank: RankId) -> None:
        self.ended.append(rank)
        if rank in self.processes:
            self._kill(rank)
        self._resume_all_of(rank)

    def _kill(self, rank: RankId) -> None:
        self.processes[rank].kill()

    # What a client does

    async def submit(self, request: GenerationRequest, rank: RankId) -> None:
        """Send a request to a rank."""
        stream = self.streams[request.request_id] = Stream(request, rank, last_at=time.monotonic())
        await self._send(stream)

    async def _send(self, stream: Stream) -> None:
        stream.attempt = f"{stream.request.request_id}/{stream.num_resumed}"
        resumed = replace(
            stream.request,
            request_id=stream.attempt,
            emitted_token_ids=stream.answer.token_ids,
            sink_id=SINK,
        )
        try:
            refusal = await self.ask(stream.rank, "submit", resumed)
        except RankDiedError:
            return  # it will be resumed when the keeper knows
        assert refusal is None, refusal

    def _resume_all_of(self, rank: RankId) -> None:
        for stream in self.streams.values():
            if stream.rank == rank and not stream.is_over:
                self._resume(stream)

    def _resume(self, stream: Stream) -> None:
        open_ranks = [rank for rank in self.keeper.open_ranks if rank not in self.ended]
        if not open_ranks:
            return
        stream.num_resumed += 1
        stream.rank = open_ranks[stream.num_resumed % len(open_ranks)]
        self._resuming = asyncio.create_task(self._send(stream))

    def _note(self, rank: RankId, what: list[TokenOutput] | str) -> None:
        if isinstance(what, str):
            self.fired.append((rank, what))
        else:
            for output in what:
                self._take(rank, output)
        self._changed.set()
        self._changed = asyncio.Event()

    def _take(self, rank: RankId, output: TokenOutput) -> None:
        stream = self.streams[output.request_id.split("/")[0]]
        if (stream.attempt, stream.rank) != (output.request_id, rank):
            self.late.append(output)
            return
        answer = stream.answer
        assert not stream.is_over, "output after the end"
        assert output.position == len(answer.token_ids), "a token is missing, or comes twice"
        stream.gaps_s.append(time.monotonic() - stream.last_at)
        stream.last_at = time.monotonic()
        if output.finish_reason is FinishReason.ERROR:
            answer.error = output.error
            self._resume(stream)
            return
        answer.token_ids += output.token_ids
        answer.logprobs += output.logprobs
        answer.finish_reason = output.finish_reason

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for something that outputs, faults or the keeper bring about."""
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < deadline, f"waited in vain; epoch {self.keeper.epoch}"
            assert not self._keeping.done() or self.keeper.failure, self._keeping
            changed = self._changed
            await asyncio.wait((asyncio.ensure_future(changed.wait()),), timeout=0.05)

    async def until_over(self) -> None:
        await self.until(lambda: all(stream.is_over for stream in self.streams.values()))

    async def until_whole(self) -> None:
        """Wait until every lost rank is replaced and may be given requests."""
        num_ranks = self.config.parallel.num_ranks
        await self.until(lambda: self.keeper.is_serving and len(self.keeper.open_ranks) == num_ranks)

    def texts(self) -> dict[str, object]:
        return {name: stream.answer.text() for name, stream in self.streams.items()}

    async def submit_all(self, requests: Iterable[GenerationRequest]) -> None:
        """Deal requests out to all ranks."""
        ranks = self.keeper.open_ranks
        for number, request in enumerate(requests):
            await self.submit(request, ranks[number % len(ranks)])

    async def until_streaming(self) -> None:
        """Wait until every request has some tokens, and none has all."""
        await self.until(lambda: all(len(s.answer.token_ids) > 5 for s in self.streams.values()))

    def longest_gaps_s(self, lost: Collection[RankId]) -> list[float]:
        """Return the longest pause of every stream that never was on a lost rank, sorted."""
        streams = [stream for stream in self.streams.values() if not stream.num_resumed]
        return sorted(max(stream.gaps_s[1:]) for stream in streams if stream.rank not in lost)

    async def usage(self, ranks: Iterable[RankId]) -> list[tuple[int, float]]:
        """Return of each rank the requests that it holds, and the share of its blocks that they own."""
        stats = [await self.ask(rank, "stats") for rank in ranks]
        return [(each.num_live_requests, each.engine.kv_cache_usage) for each in stats]
