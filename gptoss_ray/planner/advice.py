"""Ways to spread a model over devices, each with its memory and predicted rates, and the best of them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig, ParallelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.planner import kv
from gptoss_ray.planner.hardware import Accelerator, Link
from gptoss_ray.planner.memory import MemoryPlan, experts_after_losses, plan_filled
from gptoss_ray.planner.rates import Group
from gptoss_ray.planner.traffic import Wiring, layer_traffic
from gptoss_ray.planner.weights import WeightFormat, unpacked_experts_fit

# A larger group must promise this much more, because the loss of any of its ranks stops all of them.
_WORTH_A_LARGER_GROUP = 1.02
_MAX_SEQUENCES = 4096


@dataclass(frozen=True)
class Cluster:
    """The devices to spread over.

    Attributes:
        accelerator: Each of them.
        num_devices: In all.
        devices_per_node: On each node.
        network: Between nodes.
        is_cpu: Ranks compute with the CPU's kernels.
        is_native: With native ones, else with torch, which unpacks experts where memory allows.
    """

    accelerator: Accelerator
    num_devices: int
    devices_per_node: int
    network: Link
    is_cpu: bool = False
    is_native: bool = False

    def __post_init__(self) -> None:
        if self.num_devices > self.devices_per_node and self.num_devices % self.devices_per_node:
            raise ConfigError(
                f"{self.num_devices} devices do not fill nodes of {self.devices_per_node}; "
                "choose a multiple of it",
                param="gpus",
            )


@dataclass(frozen=True)
class Load:
    """What is asked of the cluster.

    Attributes:
        num_streams: Requests at once.
        context: Tokens of a stream, prompt and output; it decodes at this length, so rates are of its end.
        max_num_batched_tokens: Token budget of a rank's step.
    """

    num_streams: int
    context: int
    max_num_batched_tokens: int


@dataclass(frozen=True)
class Formats:
    """What an engine holds in 8 bits, named as in `EngineConfig`."""

    kv_cache_dtype: Literal["auto", "fp8"] = "auto"
    dense_weights: Literal["bfloat16", "int8"] = "bfloat16"


@dataclass(frozen=True)
class Prediction:
    """How a layout that fits would do; rates are of the whole cluster where nothing else is said.

    Attributes:
        memory: Of a rank.
        kv_tokens: Tokens of KV cache, in streams of the load's context.
        num_streams: Streams that decode at once; the rest of the load waits.
        decode_tokens_per_s: All of them together.
        stream_tokens_per_s: One of them.
        prefill_tokens_per_s: When every rank has a prompt.
        prompt_s: A prompt of the load's context, on one rank.
        exchange_share: Of a decode step, 0 to 1.
        dispatch_mode: Of decode steps.
        exchange_bytes_per_token: All-to-all that a decoded token causes, over all layers.
    """

    memory: MemoryPlan
    kv_tokens: int
    num_streams: int
    decode_tokens_per_s: float
    stream_tokens_per_s: float
    prefill_tokens_per_s: float
    prompt_s: float
    exchange_share: float
    dispatch_mode: str
    exchange_bytes_per_token: float


@dataclass(frozen=True)
class Layout:
    """`num_groups` independent replicas, each a group of `num_ranks` ranks.

    Attributes:
        num_groups: Copies of the model.
        num_ranks: Devices of each copy.
        prediction: None where it does not fit.
        problem: Why it does not fit.
    """

    num_groups: int
    num_ranks: int
    prediction: Prediction | None
    problem: str | None = None

    @property
    def name(self) -> str:
        """What it is called in a table."""
        copies = "1 replica" if self.num_groups == 1 else f"{self.num_groups} replicas"
        return copies if self.num_ranks == 1 else f"{copies} x {self.num_ranks} ranks"


def compare_layouts(
    model: ModelConfig, cluster: Cluster, load: Load, formats: Formats = Formats()
) -> list[Layout]:
    """Predict every even way to spread `model` over the cluster, smallest groups first.

    Raises:
        ConfigError: The load's context exceeds the model's.
    """
    if load.context > model.max_context:
        raise ConfigError(
            f"context is {load.context}, but the model's is {model.max_context}; choose at most that.",
            param="context",
        )
    return [_layout(model, cluster, load, formats, num_ranks) for num_ranks in _group_sizes(model, cluster)]


def best_layout(layouts: Sequence[Layout]) -> Layout | None:
    """Return the layout that decodes most tokens a second, the smallest group among near equals.

    `layouts` come smallest group first; None where none fits.
    """
    best: tuple[float, Layout] | None = None
    for layout in layouts:
        if layout.prediction is None:
            continue
        rate = layout.prediction.decode_tokens_per_s
        if best is None or rate > _WORTH_A_LARGER_GROUP * best[0]:
            best = rate, layout
    return best and best[1]


def _group_sizes(model: ModelConfig, cluster: Cluster) -> Iterator[int]:
    """Yield the sizes that use all devices: parts of a node, or whole nodes."""
    node = min(cluster.devices_per_node, cluster.num_devices)
    for size in range(1, min(cluster.num_devices, model.num_experts) + 1):
        if cluster.num_devices % size == 0 and (node % size == 0 or size % node == 0):
            yield size


def _layout(model: ModelConfig, cluster: Cluster, load: Load, formats: Formats, num_ranks: int) -> Layout:
    num_groups = cluster.num_devices // num_ranks
    parallel = ParallelConfig(num_ranks=num_ranks, device="cpu" if cluster.is_cpu else "cuda")
    engine = EngineConfig(
        max_num_sequences=min(_MAX_SEQUENCES, -(-load.num_streams // cluster.num_devices)),
        max_num_batched_tokens=load.max_num_batched_tokens,
        max_context=load.context,
        kv_cache_dtype=formats.kv_cache_dtype,
        dense_weights=formats.dense_weights,
    )
    usable = cluster.accelerator.usable_bytes
    weight_format = _weight_format(model, cluster, engine, parallel)
    try:
        memory = plan_filled(model, engine, parallel, usable, weight_format)
    except ConfigError as error:
        return Layout(num_groups, num_ranks, None, error.message)
    per_sequence = kv.blocks_per_sequence(model, engine.kv_block_size, load.context)
    capacity = memory.num_kv_blocks // per_sequence
    if capacity == 0:
        problem = f"the KV cache of a rank holds {memory.num_kv_blocks} blocks, a stream takes {per_sequence}"
        return Layout(num_groups, num_ranks, None, problem)
    wiring = Wiring.of(cluster.accelerator, cluster.network, num_ranks, cluster.devices_per_node)
    group = Group(model, weight_format, cluster.accelerator, wiring, parallel.max_padded_bytes)
    rank_streams = min(capacity, engine.max_num_sequences, load.max_num_batched_tokens)
    return Layout(num_groups, num_ranks, _predict(group, memory, load, num_groups, capacity, rank_streams))


def _weight_format(
    model: ModelConfig, cluster: Cluster, engine: EngineConfig, parallel: ParallelConfig
) -> WeightFormat:
    if not cluster.is_cpu:
        return WeightFormat.of_triton(engine)
    if cluster.is_native:
        return WeightFormat.of_native(engine)
    num_experts, memory_bytes = experts_after_losses(model, parallel), cluster.accelerator.memory_bytes
    are_unpacked = unpacked_experts_fit(model, num_experts, 2, memory_bytes)
    return WeightFormat.of_torch(engine, experts_packed=not are_unpacked)


def _predict(
    group: Group, memory: MemoryPlan, load: Load, num_groups: int, capacity: int, rank_streams: int
) -> Prediction:
    """Predict `num_groups` groups whose ranks hold `capacity` streams and decode at most `rank_streams`."""
    num_ranks = group.wiring.num_ranks
    num_streams = min(load.num_streams, num_groups * num_ranks * rank_streams)
    group_streams = -(-num_streams // num_groups)
    step = group.decode_step(group_streams, load.context)
    chunk = min(load.max_num_batched_tokens, load.context)
    rank_prefill = chunk / group.prefill_step(chunk, load.context // 2).total_s
    rows = -(-group_streams // num_ranks)
    traffic = layer_traffic(group.model, num_ranks, rows, group.max_padded_bytes)
    return Prediction(
        memory=memory,
        kv_tokens=num_groups * num_ranks * capacity * load.context,
        num_streams=num_streams,
        decode_tokens_per_s=num_streams / step.total_s,
        stream_tokens_per_s=1 / step.total_s,
        prefill_tokens_per_s=num_groups * num_ranks * rank_prefill,
        prompt_s=load.context / rank_prefill,
        exchange_share=step.exchange_s / step.total_s,
        dispatch_mode=traffic.mode,
        exchange_bytes_per_token=group.model.num_layers * traffic.num_bytes / rows,
    )
