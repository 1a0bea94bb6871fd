"""Measures what ranks of a group cost each other: a stream beside a long prompt elsewhere, and idleness.

Ranks are processes of this machine that share a small random model. Token gaps depend on the machine;
what is to be read is their ratio within one run.
"""

from __future__ import annotations

import tempfile
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise

from gptoss_ray.bench.rank_processes import TIMEOUT_S, local_membership, meet, run_processes
from gptoss_ray.bench.timings import percentile
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.config import EngineConfig, ParallelConfig, ServedModelConfig
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.parallel.group_link import GroupLink
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.ranks.engine_loader import load_engine
from gptoss_ray.ranks.step_loop import Batches, StepLoop

_PROMPT_RANK, _STREAM_RANK = 0, 1


@dataclass(frozen=True)
class RankFigures:
    """What one rank measured; moments are of the machine's monotonic clock.

    Attributes:
        idle_cpu_share: CPU time over time while the group had no work; 1 is a whole core.
        quiet_moments_s: When each token of a stream came while nothing else ran.
        busy_moments_s: The same while another rank read its prompt.
        prompt_from_s: When that prompt was sent (0 on other ranks).
        prompt_until_s: When its first token came.
    """

    idle_cpu_share: float
    quiet_moments_s: tuple[float, ...] = ()
    busy_moments_s: tuple[float, ...] = ()
    prompt_from_s: float = 0.0
    prompt_until_s: float = 0.0


@dataclass(frozen=True)
class EPResult:
    """A run of `num_ranks` ranks with a prompt of `num_prompt_tokens`."""

    num_ranks: int
    num_prompt_tokens: int
    max_prefill_tokens_per_step: int
    ranks: tuple[RankFigures, ...]

    @property
    def quiet_gaps_s(self) -> list[float]:
        """Between tokens of the stream while nothing else ran."""
        return _gaps(self.ranks[_STREAM_RANK].quiet_moments_s)

    @property
    def busy_gaps_s(self) -> list[float]:
        """Between tokens of the stream while the prompt was read on another rank."""
        prompt = self.ranks[_PROMPT_RANK]
        moments = self.ranks[_STREAM_RANK].busy_moments_s
        return _gaps(tuple(at for at in moments if prompt.prompt_from_s <= at <= prompt.prompt_until_s))

    def row(self) -> dict[str, float | int | str]:
        """Return the figures that are printed."""
        quiet, busy = percentile(self.quiet_gaps_s, 0.99), percentile(self.busy_gaps_s, 0.99)
        prompt = self.ranks[_PROMPT_RANK]
        return {
            "ranks": self.num_ranks,
            "prompt_tokens": self.num_prompt_tokens,
            "prompt_tokens_per_step": self.max_prefill_tokens_per_step,
            "prompt_s": round(prompt.prompt_until_s - prompt.prompt_from_s, 2),
            "quiet_p99_gap_ms": round(quiet * 1e3, 2),
            "p99_gap_ms": round(busy * 1e3, 2),
            "p99_ratio": round(busy / quiet, 2),
            "idle_cpu_percent": round(100 * max(rank.idle_cpu_share for rank in self.ranks), 2),
        }


def run(
    num_ranks: int = 2,
    *,
    num_prompt_tokens: int = 16_384,
    num_stream_tokens: int = 400,
    parallel: ParallelConfig | None = None,
    idle_s: float = 5.0,
) -> EPResult:
    """Measure a stream on one rank, alone and while another rank reads a long prompt.

    Args:
        num_ranks: At least two, each a process with one thread.
        num_prompt_tokens: Of the long prompt.
        num_stream_tokens: Of the quiet stream, at least three.
        parallel: Prefill policy and wires; `num_ranks` is set here.
        idle_s: How long the idle group is watched.
    """
    parallel = (parallel or ParallelConfig()).model_copy(update={"num_ranks": num_ranks})
    membership = local_membership(num_ranks)
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder, tiny_config(max_context=2 * num_prompt_tokens))
        config = ServedModelConfig(
            name="bench",
            checkpoint=folder,
            engine=EngineConfig(
                kv_cache_bytes=max(8 << 20, 4096 * num_prompt_tokens), prefix_cache=False, speculation="off"
            ),
            parallel=parallel,
        )
        args = (config, membership, num_prompt_tokens, num_stream_tokens, idle_s)
        figures = run_processes(_measure, [(rank, *args) for rank in range(num_ranks)])
    return EPResult(num_ranks, num_prompt_tokens, parallel.max_prefill_tokens_per_step, tuple(figures))


@dataclass
class _Stream:
    """When each token of a request came, and whether it decodes or has ended."""

    moments_s: list[float] = field(default_factory=list)
    decodes: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)


class _Rank:
    """One rank of the group in this process, with its step loop."""

    def __init__(self, rank: int, config: ServedModelConfig, membership: GroupMembership) -> None:
        self._link = GroupLink(rank, config.parallel)
        engine = load_engine(config, rank, self._link, (), lambda _: None)
        self._link.join(membership)
        self._stream = _Stream()
        self._loop = StepLoop(engine, self._deliver)
        self._loop.start()

    def serve(self, num_prompt_tokens: int, max_tokens: int) -> tuple[float, ...]:
        """Answer one request; return when each token came."""
        self._send(num_prompt_tokens, max_tokens)
        self._stream.ended.wait(TIMEOUT_S)
        return tuple(self._stream.moments_s)

    def begin(self, num_prompt_tokens: int, max_tokens: int) -> None:
        """Send one request and return once it decodes."""
        self._send(num_prompt_tokens, max_tokens)
        self._stream.decodes.wait(TIMEOUT_S)

    def end(self) -> tuple[float, ...]:
        """Abort the request that was begun; return when each token came."""
        self._loop.abort(["measured"]).result()
        self._stream.ended.wait(TIMEOUT_S)
        return tuple(self._stream.moments_s)

    def close(self) -> None:
        self._loop.stop()
        self._link.leave()

    def _send(self, num_prompt_tokens: int, max_tokens: int) -> None:
        self._stream = _Stream()
        prompt = tuple(number % 500 for number in range(num_prompt_tokens))
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        self._loop.submit(GenerationRequest("measured", prompt, params)).result()

    def _deliver(self, batches: Batches) -> None:
        for output in (output for outputs in batches.values() for output in outputs):
            if output.token_ids:
                self._stream.moments_s.append(time.monotonic())
                self._stream.decodes.set()
            if output.finish_reason is not None:
                self._stream.ended.set()


def _measure(
    number: int,
    config: ServedModelConfig,
    membership: GroupMembership,
    num_prompt_tokens: int,
    num_stream_tokens: int,
    idle_s: float,
) -> RankFigures:
    """Be one rank."""
    rank = _Rank(number, config, membership)
    figures = _go_through_phases(rank, number, num_prompt_tokens, num_stream_tokens, idle_s)
    rank.close()
    return figures


def _go_through_phases(
    rank: _Rank, number: int, num_prompt_tokens: int, num_stream_tokens: int, idle_s: float
) -> RankFigures:
    """Measure each phase together with the other ranks: idle, a quiet stream, a stream beside a prompt."""
    rank.serve(8, 3)

    meet()
    cpu_before_s = time.process_time()
    time.sleep(idle_s)
    idle_cpu_share = (time.process_time() - cpu_before_s) / idle_s

    meet()
    quiet = rank.serve(8, num_stream_tokens) if number == _STREAM_RANK else ()
    meet()
    if number == _STREAM_RANK:
        rank.begin(8, num_prompt_tokens)
    meet()
    prompt_from_s = time.monotonic()
    first_token = rank.serve(num_prompt_tokens, 1) if number == _PROMPT_RANK else (0.0,)
    meet()
    busy = rank.end() if number == _STREAM_RANK else ()
    meet()
    return RankFigures(idle_cpu_share, quiet, busy, prompt_from_s, first_token[0])


def _gaps(moments_s: tuple[float, ...]) -> list[float]:
    return [after - before for before, after in pairwise(moments_s)]
