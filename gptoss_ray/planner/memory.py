"""MemoryPlan: what a rank will hold, worked out from configuration alone and checked before loading."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.planner import gpu_memory, kv
from gptoss_ray.planner.buffers import activation_bytes, dispatch_bytes
from gptoss_ray.planner.scratch import scratch_bytes
from gptoss_ray.planner.weights import WeightFormat, weigh

GRAMMAR_BYTES_PER_TOKEN = 700
"""Of the vocabulary: what a rank keeps to compile grammars. Measured, not worked out: 142 MB of o200k."""


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes of the fullest rank of a group.

    Weights and KV are what is allocated, to the byte. Buffers are the peak of a step whose tokens
    spread over the ranks no worse than `buffers.MAX_SKEW`.

    Attributes:
        dense_bytes: Weights that every rank holds.
        expert_bytes: The rank's experts, spare slots included.
        reserve_bytes: Room for experts of as many lost ranks as the group tolerates.
        swap_bytes: One layer's experts once more, while it takes others; 0 where experts do not move.
        kv_cache_bytes: KV blocks.
        dispatch_bytes: Rows on their way to experts and back.
        activation_bytes: Everything else that lives within a step.
        scratch_bytes: What native kernels keep for themselves between steps.
        graph_bytes: What a GPU keeps from step to step: inputs, logits, graphs.
        grammar_bytes: What the compiler of grammars keeps; 0 on a GPU, as it lies in the main memory.
        num_kv_blocks: Blocks of the pool.
        max_sequence_tokens: The longest sequence that fits alone, or the model's context.
    """

    dense_bytes: int
    expert_bytes: int
    reserve_bytes: int
    swap_bytes: int
    kv_cache_bytes: int
    dispatch_bytes: int
    activation_bytes: int
    scratch_bytes: int
    graph_bytes: int
    grammar_bytes: int
    num_kv_blocks: int
    max_sequence_tokens: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.fixed_bytes + self.kv_cache_bytes

    @property
    def weight_bytes(self) -> int:
        """All weights of the rank."""
        return self.dense_bytes + self.expert_bytes

    @property
    def fixed_bytes(self) -> int:
        """What the size of the KV cache does not change."""
        step_bytes = self.dispatch_bytes + self.activation_bytes + self.scratch_bytes + self.graph_bytes
        return self.weight_bytes + self.reserve_bytes + self.swap_bytes + step_bytes + self.grammar_bytes

    def parts(self) -> dict[str, int]:
        """Return bytes by what they are for, to be printed."""
        return {
            "weights of every rank": self.dense_bytes,
            "experts of the rank": self.expert_bytes,
            "room for experts of lost ranks": self.reserve_bytes,
            "experts being swapped": self.swap_bytes,
            "KV cache": self.kv_cache_bytes,
            "dispatch buffers": self.dispatch_bytes,
            "activations": self.activation_bytes,
            "buffers of native kernels": self.scratch_bytes,
            "graphs and buffers of steps": self.graph_bytes,
            "grammar compiler": self.grammar_bytes,
        }


def plan_memory(
    model: ModelConfig,
    engine: EngineConfig,
    parallel: ParallelConfig | None = None,
    *,
    weight_format: WeightFormat | None = None,
) -> MemoryPlan:
    """Work out what the fullest rank of a group holds.

    Args:
        model: The network.
        engine: Of each rank.
        parallel: Of the group; None: one rank.
        weight_format: Of the kernels; None: torch's, with MXFP4 experts packed.
    """
    parallel = parallel or ParallelConfig()
    weight_format = weight_format or WeightFormat.of_torch(engine, experts_packed=True)
    weights = weigh(model, weight_format)
    num_experts = experts_per_rank(model, parallel)
    dense_bytes = weights.held_bytes(0)
    expert_bytes = weights.held_bytes(num_experts) - dense_bytes
    block_bytes = kv.bytes_per_block(model, engine.kv_block_size, weight_format.kv_itemsize)
    num_kv_blocks = engine.kv_cache_bytes // block_bytes
    longest = kv.longest_sequence(model, engine.kv_block_size, num_kv_blocks, engine.max_num_batched_tokens)
    return MemoryPlan(
        dense_bytes=dense_bytes,
        expert_bytes=expert_bytes,
        reserve_bytes=weights.held_bytes(experts_after_losses(model, parallel)) - dense_bytes - expert_bytes,
        swap_bytes=expert_bytes // model.num_layers if parallel.moves_experts else 0,
        kv_cache_bytes=num_kv_blocks * block_bytes,
        dispatch_bytes=dispatch_bytes(model, engine, parallel),
        activation_bytes=gpu_memory.step_bytes(model, engine, parallel)
        if weight_format.is_triton
        else activation_bytes(model, engine, parallel, weight_format),
        scratch_bytes=scratch_bytes(model, engine, parallel, weight_format),
        graph_bytes=gpu_memory.lasting_bytes(model, engine, parallel) if weight_format.is_triton else 0,
        grammar_bytes=model.vocab_size * GRAMMAR_BYTES_PER_TOKEN if parallel.device == "cpu" else 0,
        num_kv_blocks=num_kv_blocks,
        max_sequence_tokens=min(model.max_context, longest),
    )


def plan_filled(
    model: ModelConfig,
    engine: EngineConfig,
    parallel: ParallelConfig,
    available_bytes: int,
    weight_format: WeightFormat,
) -> MemoryPlan:
    """Work out a rank whose KV cache takes all that the rest leaves of `available_bytes`.

    Raises:
        ConfigError: Nothing is left for a KV cache; the message has the numbers.
    """
    plan = plan_memory(model, engine, parallel, weight_format=weight_format)
    two_blocks = 2 * kv.bytes_per_block(model, engine.kv_block_size, weight_format.kv_itemsize)
    check_fits(dataclasses.replace(plan, kv_cache_bytes=two_blocks), available_bytes)
    filled = engine.model_copy(update={"kv_cache_bytes": available_bytes - plan.fixed_bytes})
    return plan_memory(model, filled, parallel, weight_format=weight_format)


def check_fits(plan: MemoryPlan, available_bytes: int) -> None:
    """Refuse a plan that `available_bytes` for each rank cannot hold.

    Raises:
        ConfigError: With every part's bytes, what is missing, and what would mend it.
    """
    missing = plan.total_bytes - available_bytes
    if missing <= 0:
        return
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in plan.parts().items() if size)
    remedy = "spread the experts over more ranks (parallel.num_ranks) or take a larger device"
    if plan.reserve_bytes:
        remedy = f"set parallel.tolerated_rank_losses to 0, or {remedy}"
    if plan.fixed_bytes < available_bytes:
        remedy = f"lower engine.kv_cache_bytes by {missing} or more, or {remedy}"
    needed, has = gigabytes(plan.total_bytes), gigabytes(available_bytes)
    raise ConfigError(f"A rank needs {needed} ({parts}), but has {has}; {remedy}.", param="kv_cache_bytes")


def experts_per_rank(model: ModelConfig, parallel: ParallelConfig) -> int:
    """Return the experts a layer of the fullest rank, its spare slots included."""
    return -(-model.num_experts // parallel.num_ranks) + parallel.num_spare_experts


def experts_after_losses(model: ModelConfig, parallel: ParallelConfig) -> int:
    """Return the same when as many ranks are lost as the group tolerates."""
    num_left = parallel.num_ranks - parallel.num_tolerated_losses
    num_experts = -(-model.num_experts // num_left) + parallel.num_spare_experts
    return max(experts_per_rank(model, parallel), min(model.num_experts, num_experts))


def gigabytes(num_bytes: float) -> str:
    """Return a readable size in units of 1000."""
    return f"{num_bytes / 1e9:.2f} GB" if num_bytes >= 1e8 else f"{num_bytes / 1e6:.2f} MB"
