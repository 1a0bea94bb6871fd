"""What is measured on an engine: prompts read alone, and decode steps of several streams."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from gptoss_ray.bench.context_filler import ContextFiller
from gptoss_ray.bench.timings import Timings
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import GptossError
from gptoss_ray.generation import GenerationRequest, SamplingParams
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.planner.kv import bytes_per_block

_NUM_WARM_UPS = 2
_UNLIMITED = 1 << 30


@dataclass(frozen=True, order=True)
class DecodeCase:
    """Streams that decode together, each with `context` tokens behind it."""

    num_streams: int
    context: int


def engine_config(
    base: EngineConfig, model: ModelConfig, cases: Iterable[DecodeCase], num_steps: int
) -> EngineConfig:
    """Return `base` with KV memory for each case alone and `num_steps` steps, and without prefix cache.

    Equal prompts must not be found in a cache: they are there to be read again. Nor are there drafts: a step
    makes one token a stream.
    """
    cases = list(cases)
    num_blocks = max(_num_blocks(base, case, num_steps) for case in cases)
    block_bytes = bytes_per_block(model, base.kv_block_size, base.kv_itemsize)
    return base.model_copy(
        update={
            "kv_cache_bytes": max(1 << 20, num_blocks * block_bytes),
            "max_num_sequences": max(case.num_streams for case in cases),
            "prefix_cache": False,
            "speculation": "off",
            "max_context": None,
        }
    )


def _num_blocks(engine: EngineConfig, case: DecodeCase, num_steps: int) -> int:
    """Return the KV blocks of a case, for full and for window layers, and some more.

    Streams that come first decode while the contexts of others are filled, so that they grow by more.
    """
    num_fill_steps = -(-case.num_streams * case.context // (engine.max_num_batched_tokens - case.num_streams))
    num_tokens = case.context + num_fill_steps + _NUM_WARM_UPS + num_steps
    per_stream = -(-num_tokens // engine.kv_block_size) + 2
    return 2 * (case.num_streams * per_stream + engine.max_num_batched_tokens // engine.kv_block_size)


class EngineUnderTest:
    """An engine that nobody else uses, and requests with random tokens (of `seed`) for it.

    Args:
        engine: It.
        model: Its shape.
        seed: Of the tokens.
        fills_contexts: Whether contexts are noise that is written to the KV cache; else they are read.
    """

    def __init__(
        self, engine: Engine, model: ModelConfig, *, seed: int = 0, fills_contexts: bool = True
    ) -> None:
        self.engine = engine
        self._fills_contexts = fills_contexts
        self._model = model
        self._random = np.random.default_rng(seed)
        self._num_requests = 0

    def prefill(self, num_tokens: int) -> float:
        """Read one prompt of other tokens than before; return the seconds until its first token."""
        request_id = self._submit(num_tokens, max_tokens=1)
        began = time.perf_counter()
        while self.engine.has_work:
            for output in self.engine.step():
                if output.request_id == request_id and output.token_ids:
                    return time.perf_counter() - began
        raise GptossError(f"a prompt of {num_tokens} tokens got no token; the log says why")

    def decode(self, case: DecodeCase, num_steps: int) -> Timings:
        """Return the seconds of each of `num_steps` steps; see `steps`."""
        return Timings(tuple(self.steps(case, num_steps)))

    def steps(self, case: DecodeCase, num_steps: int) -> Iterator[float]:
        """Yield the seconds of each of `num_steps` steps after warming up; each draws a token a stream.

        The context is noise that is written to the KV cache directly (see `context_filler.py`), or is read.
        """
        with self._streams(case):
            for _ in range(_NUM_WARM_UPS):
                self._step(case.num_streams)
            for _ in range(num_steps):
                began = time.perf_counter()
                self._step(case.num_streams)
                yield time.perf_counter() - began

    @contextmanager
    def _streams(self, case: DecodeCase) -> Iterator[None]:
        """Bring all streams to where they decode, and forget them at the end."""
        transformer = self.engine.transformer
        if self._fills_contexts:
            self._swap(ContextFiller.of(transformer))
        waiting = {self._submit(case.context, max_tokens=_UNLIMITED) for _ in range(case.num_streams)}
        streams = tuple(waiting)
        while waiting:
            waiting -= {output.request_id for output in self.engine.step()}
        if self._fills_contexts:
            self._swap(transformer)
        yield
        for request_id in streams:
            self.engine.abort(request_id)

    def _step(self, num_streams: int) -> None:
        outputs = self.engine.step()
        if len(outputs) != num_streams or any(output.finish_reason for output in outputs):
            raise GptossError(f"{num_streams} streams made {len(outputs)} tokens in a step; the log says why")

    def _swap(self, transformer: Transformer) -> None:
        """From the next step on, the engine runs this network."""
        self.engine.stage_placement(self.engine.stats().placement + 1, transformer)

    def _submit(self, num_tokens: int, *, max_tokens: int) -> str:
        self._num_requests += 1
        request_id = f"bench-{self._num_requests}"
        prompt = tuple(self._random.integers(self._model.vocab_size, size=num_tokens).tolist())
        params = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        self.engine.submit(GenerationRequest(request_id, prompt, params))
        return request_id
