"""transformers' model as a benchmark uses it: batched `generate`, by the fastest of its ways."""

from __future__ import annotations

import gc
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.gpu_cases import CHUNK_TOKENS
from gptoss_ray.bench.transformers_memory import PeerExperts

CacheKind = Literal["dynamic", "static"]

NUM_WARM_UPS = 8
"""Steps before those that count: compiled ones are traced and recorded anew for each cache."""

_FILL_TOKENS = 1024
# Each number of streams and each length is compiled for itself; behind torch's own limit it stops compiling.
_MAX_RECOMPILES = 256
_THROUGHOUT = "grouped_mm_throughout"
_HUB_ATTENTION = "kernels-community/vllm-flash-attn3"


@dataclass(frozen=True)
class PeerUsage:
    """A way to use transformers.

    Attributes:
        attention: Implementation; one that knows sinks.
        experts: Implementation. `generate` takes "batched_mm" for decoding in the place of "grouped_mm", but
            not of "grouped_mm_throughout".
        cache: "static" has a fixed size; on a card `generate` compiles decoding with it and records graphs.
    """

    attention: str
    experts: str
    cache: CacheKind = "dynamic"

    def __str__(self) -> str:
        """Return what is printed."""
        return f"{self.attention}, {self.experts}, {self.cache} cache"


@dataclass(frozen=True)
class Trial:
    """What came of trying several ways.

    Attributes:
        fastest: None: all failed.
        failures: Why the others could not be used.
    """

    fastest: PeerUsage | None
    failures: dict[PeerUsage, str]


@dataclass(frozen=True)
class PeerUsages:
    """The ways to use transformers that are worth a trial.

    Attributes:
        prompts: For prompts: nothing is compiled there, and all experts' implementations are one.
        decode: For decoding.
    """

    prompts: tuple[PeerUsage, ...]
    decode: tuple[PeerUsage, ...]

    @classmethod
    def on(cls, device: torch.device, experts: PeerExperts, *, has_hub_kernels: bool) -> PeerUsages:
        """Return those of a device.

        Args:
            device: On CPUs, flex attention knows no sinks, and `generate` keeps the experts' implementation.
            experts: Packed ones have one implementation.
            has_hub_kernels: Whether kernels of transformers' hub can be taken.
        """
        attentions, implementations = ["eager"], ["grouped_mm"]
        if device.type != "cpu":
            attentions += ["flex_attention", *([_HUB_ATTENTION] if has_hub_kernels else [])]
            implementations.append(_THROUGHOUT)
        if experts == "mxfp4":
            implementations = ["mxfp4"]
        caches: tuple[CacheKind, ...] = ("dynamic", "static")
        decode = itertools.starmap(PeerUsage, itertools.product(attentions, implementations, caches))
        return cls(tuple(PeerUsage(attention, implementations[0]) for attention in attentions), tuple(decode))


def find_fastest(usages: Sequence[PeerUsage], measure: Callable[[PeerUsage], float]) -> Trial:
    """Try all usages; whatever a trial raises leaves it out.

    Args:
        usages: To try.
        measure: Returns seconds.
    """
    seconds: dict[PeerUsage, float] = {}
    failures: dict[PeerUsage, str] = {}
    for usage in usages:
        try:
            seconds[usage] = measure(usage)
        except Exception as error:
            text = str(error).strip().splitlines()
            failures[usage] = f"{type(error).__name__}: {text[0][:160] if text else ''}"
    return Trial(min(seconds, key=seconds.__getitem__, default=None), failures)


class TransformersUnderTest:
    """A GptOssForCausalLM that nobody else uses, and random tokens (of `seed`) for it.

    Args:
        network: See `transformers_model.build`.
        seed: Of the tokens.
    """

    def __init__(self, network: Any, *, seed: int = 0) -> None:
        from transformers.integrations.moe import (  # noqa: PLC0415  (a development dependency)
            ALL_EXPERTS_FUNCTIONS,
            grouped_mm_experts_forward,
        )

        ALL_EXPERTS_FUNCTIONS.register(_THROUGHOUT, grouped_mm_experts_forward)
        self._network = network
        self._device: torch.device = network.device
        self._random = torch.Generator().manual_seed(seed)
        self._cache: CacheKind = "dynamic"

    def use(self, usage: PeerUsage) -> None:
        """Work that way from now on; raises what transformers raises if it cannot."""
        self._network.set_attn_implementation(usage.attention)
        if usage.experts != "mxfp4":
            self._network.set_experts_implementation(usage.experts)
        self._cache = usage.cache

    def prefill(self, num_tokens: int) -> float:
        """Read one prompt of other tokens than before; return the seconds until its first token.

        What `generate` does before it looks at the prompt does not count.
        """
        _, (began, first) = self.generate(self._random_tokens(1, num_tokens), 1)
        return first - began

    def steps(self, case: DecodeCase, num_steps: int) -> list[float]:
        """Return the seconds of each of `num_steps` steps after warming up; each draws a token a stream.

        The context is noise that is written to the cache; only its last token is read.
        """
        token_ids = self._random_tokens(case.num_streams, case.context)
        cache = self._filled_cache(case, num_steps)
        _, moments = self.generate(token_ids, 1 + NUM_WARM_UPS + num_steps, cache)
        return [end - begin for begin, end in itertools.pairwise(moments[1 + NUM_WARM_UPS :])]

    def generate(self, token_ids: Tensor, num_tokens: int, cache: Any = None) -> tuple[Tensor, list[float]]:
        """Draw the most likely tokens.

        Args:
            token_ids: [streams, tokens] on the device; what `cache` holds is not computed again.
            num_tokens: To draw for each stream.
            cache: None: a dynamic one, which is filled in chunks of `CHUNK_TOKENS`.

        Returns:
            Tokens [streams, num_tokens]; and the moment at which `generate` had taken the prompt, followed by
            those at which the tokens of each step were on the host.
        """
        from torch._dynamo import config as compiling  # noqa: PLC0415  (slow to import)

        clock = _StepClock()
        given = {"prefill_chunk_size": CHUNK_TOKENS} if cache is None else {"past_key_values": cache}
        with compiling.patch(recompile_limit=_MAX_RECOMPILES):
            drawn = self._network.generate(
                token_ids,
                attention_mask=torch.ones_like(token_ids),
                max_new_tokens=num_tokens,
                do_sample=False,
                streamer=clock,
                **given,
            )
        return drawn[:, token_ids.shape[1] :], clock.moments

    def free(self) -> None:
        """Give back the memory of what is over."""
        gc.collect()
        if self._device.type == "cuda":
            torch.cuda.empty_cache()

    def _random_tokens(self, num_streams: int, num_tokens: int) -> Tensor:
        shape = (num_streams, num_tokens)
        tokens = torch.randint(self._network.config.vocab_size, shape, generator=self._random)
        return tokens.to(self._device)

    @torch.no_grad()
    def _filled_cache(self, case: DecodeCase, num_steps: int) -> Any:
        """Return a cache of noise behind all tokens but the last, with room for the steps.

        Noise is written in pieces: a sliding layer keeps the memory of the last piece whole.
        """
        from transformers import DynamicCache, StaticCache  # noqa: PLC0415

        config = self._network.config
        num_tokens = case.context + 1 + NUM_WARM_UPS + num_steps
        cache = (
            StaticCache(config=config, max_cache_len=num_tokens)
            if self._cache == "static"
            else DynamicCache(config=config)
        )
        for begin in range(0, case.context - 1, _FILL_TOKENS):
            length = min(_FILL_TOKENS, case.context - 1 - begin)
            shape = (case.num_streams, config.num_key_value_heads, length, config.head_dim)
            noise = torch.randn(shape, dtype=self._network.dtype, device=self._device)
            for layer in range(config.num_hidden_layers):
                cache.update(noise, noise, layer)
        return cache


class _StepClock:
    """A streamer: `generate` calls it with the prompt and then with the tokens of each step, on the host."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, _: Tensor) -> None:
        """Take tokens."""
        self.moments.append(time.perf_counter())

    def end(self) -> None:
        """There are no more."""
