"""Where a decoding step's time goes: its parts, each timed alone beside what it costs on paper."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.gpu_cases import Row
from gptoss_ray.engine.step_buffers import DrawColumns
from gptoss_ray.kernels.device_sampler import DeviceSampler
from gptoss_ray.kernels.kernels import LayerCaches
from gptoss_ray.kvcache.kv_cache import KVCache
from gptoss_ray.model.forward_batch import ForwardBatch
from gptoss_ray.model.step_context import StepContext
from gptoss_ray.model.transformer import Transformer
from gptoss_ray.planner.gpu_steps import IN_BFLOAT16, Ceilings, StepCost, decode_step
from gptoss_ray.planner.weights import WeightFormat

TimeWork = Callable[[Callable[[], None]], float]
"""Returns the seconds of work."""

_KERNELS = {
    "attention layers": ("first norm", "qkv, rotation, KV write", "attention", "attention output"),
    "experts": (
        "norm, gate, choice",
        "rows by expert",
        "experts: gate, up, SwiGLU",
        "experts: down",
        "sum of experts, norm",
    ),
    "unembedding": ("last norm", "unembedding"),
    "draw": ("draw",),
}


@dataclass(frozen=True)
class PartTime:
    """One part.

    Attributes:
        name: Of it.
        seconds: That it took.
        cost: Of its kernels.
    """

    name: str
    seconds: float
    cost: StepCost

    def row(self, ceilings: Ceilings) -> Row:
        """Return the figures that are printed."""
        least_s = self.cost.roofline_s(ceilings)
        return {
            "part": self.name,
            "launches": self.cost.num_launches,
            "us": round(1e6 * self.seconds, 1),
            "roofline_us": round(1e6 * least_s, 1),
            "percent_of_roofline": round(100 * least_s / self.seconds, 1),
        }


def measure_parts(
    transformer: Transformer,
    kv_cache: KVCache,
    sampler: DeviceSampler,
    case: DecodeCase,
    time_work: TimeWork,
    held: WeightFormat = IN_BFLOAT16,
    *,
    by_blas: bool = False,
) -> list[PartTime]:
    """Time the parts of a step of `case`; experts are what all layers take beyond their attention.

    Args:
        transformer: A rank alone.
        kv_cache: Holds the contexts; what is in it does not matter.
        sampler: Of the device.
        case: What decodes.
        time_work: The clock.
        held: How weights and KV are held.
        by_blas: Whether cuBLAS multiplies attention's matrices with many rows.
    """
    times = {name: time_work(work) for name, work in _works(transformer, kv_cache, sampler, case)}
    times["experts"] = max(times.pop("all layers") - times["attention layers"], 1e-9)
    cost = decode_step(transformer.config, case.num_streams, case.context, held, by_blas=by_blas)
    kernels = {each.name: each for each in cost.kernels}
    return [
        PartTime(name, times[name], StepCost(tuple(kernels[kernel] for kernel in names if kernel in kernels)))
        for name, names in _KERNELS.items()
    ]


def _works(
    transformer: Transformer, kv_cache: KVCache, sampler: DeviceSampler, case: DecodeCase
) -> Iterator[tuple[str, Callable[[], None]]]:
    config, kernels, device = transformer.config, transformer.kernels, kv_cache.device
    batch = decode_batch(case, kv_cache)
    step = StepContext.of(batch, kv_cache, config, transformer.rotary_embedding, kernels)
    hidden = transformer.embedding[batch.token_ids]
    stack = transformer.stack
    assert stack is not None, "experts of other ranks"
    cache = LayerCaches(kv_cache.all_keys, kv_cache.all_values)
    logits = torch.randn(case.num_streams, config.vocab_size, device=device)
    draws = greedy_draws(case.num_streams, device)

    def attention() -> None:
        for layer in transformer.layers:
            layer.attention.forward(hidden.clone(), step)

    def layers() -> None:
        kernels.layers(hidden.clone(), stack, step.plans, cache)

    def unembedding() -> None:
        kernels.norm_linear(hidden, transformer.final_norm, transformer.unembedding)

    def draw() -> None:
        sampler.draw(logits, draws)

    yield "attention layers", attention
    yield "all layers", layers
    yield "unembedding", unembedding
    yield "draw", draw


def decode_batch(case: DecodeCase, kv_cache: KVCache) -> ForwardBatch:
    """Return a batch of the last token of each stream, blocks one after the other."""
    device, size = kv_cache.device, kv_cache.block_size
    num_blocks = -(-case.context // size)
    assert 2 * case.num_streams * num_blocks <= kv_cache.num_blocks, "the cache is too small for the case"
    tables = torch.arange(2 * case.num_streams * num_blocks, dtype=torch.int32, device=device)
    full, window = tables.view(2, case.num_streams, num_blocks)
    last = case.context - 1

    def slots(table: Tensor) -> Tensor:
        return table[:, last // size].to(torch.int64) * size + last % size

    rows = torch.arange(case.num_streams, device=device)
    return ForwardBatch(
        token_ids=rows,
        positions=torch.full_like(rows, last),
        sequence_index=rows,
        slot_mapping_full=slots(full),
        slot_mapping_window=slots(window),
        block_tables_full=full,
        block_tables_window=window,
        logits_rows=rows,
    )


def greedy_draws(num_rows: int, device: torch.device) -> DrawColumns:
    """Return what asks for the most likely token of each row."""
    zeros = torch.zeros(num_rows, device=device)
    return DrawColumns(
        temperature=zeros,
        top_k=zeros.to(torch.int32),
        top_p=torch.ones(num_rows, dtype=torch.float64, device=device),
        min_p=zeros,
        uniform=zeros.to(torch.float64),
    )
