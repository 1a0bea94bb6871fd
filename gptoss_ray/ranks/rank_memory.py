"""The memory that the ranks of a group will take, worked out and checked before they load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.model.host_memory import host_memory_bytes
from gptoss_ray.planner.memory import MemoryPlan, check_fits, experts_per_rank, gigabytes, plan_memory
from gptoss_ray.planner.weights import WeightFormat, unpacked_experts_fit
from gptoss_ray.ranks.rank_facts import RankFacts


def read_shape(config: ServedModelConfig) -> ModelConfig:
    """Read the shape of a model from its checkpoint; CheckpointError where that is missing or wrong."""
    return ModelConfig.from_folder(resolve_folder(config.checkpoint))


def plan_rank_memory(config: ServedModelConfig, model: ModelConfig) -> MemoryPlan:
    """Work out what the fullest rank of a group holds on a machine like this one."""
    parallel = config.parallel
    are_unpacked = parallel.device == "cpu" and unpacked_experts_fit(
        model,
        experts_per_rank(model, parallel),
        WeightFormat.of(config.engine, experts_packed=False).dense_itemsize,
        host_memory_bytes() // parallel.num_ranks_per_node,
    )
    return plan_memory(model, config.engine, parallel, experts_packed=not are_unpacked)


def describe_memory(config: ServedModelConfig, plan: MemoryPlan) -> str:
    """Return a plan in one line."""
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in plan.parts().items() if size)
    num_ranks = config.parallel.num_ranks
    ranks = "1 rank" if num_ranks == 1 else f"{num_ranks} ranks, each"
    return f"{config.name}: {ranks} {gigabytes(plan.total_bytes)} ({parts})"


def check_rank_memory(config: ServedModelConfig, plan: MemoryPlan, free_bytes: int, num_ranks: int) -> None:
    """Refuse to load `num_ranks` CPU ranks into the free memory of one node.

    Ranks on GPUs are not judged by the main memory.

    Raises:
        ConfigError: With each part's size, and what is missing.
    """
    if config.parallel.device != "cpu":
        return
    try:
        check_fits(plan, free_bytes // num_ranks)
    except ConfigError as error:
        raise ConfigError(f"{config.name}: {error.message}", param=error.param) from None


def check_group_memory(
    config: ServedModelConfig, model: ModelConfig, facts: Sequence[RankFacts]
) -> MemoryPlan:
    """Refuse a group that the memory of one of its nodes cannot hold; return the plan of a rank.

    Raises:
        ConfigError: See `check_rank_memory`.
    """
    plan = plan_rank_memory(config, model)
    for host_id, num_ranks in Counter(fact.host_id for fact in facts).items():
        free_bytes = min(fact.free_memory_bytes for fact in facts if fact.host_id == host_id)
        check_rank_memory(config, plan, free_bytes, num_ranks)
    return plan
