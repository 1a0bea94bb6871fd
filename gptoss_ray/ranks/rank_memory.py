"""The memory that the ranks of a group will take, worked out and checked before they load."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.backend import select_backend
from gptoss_ray.model.host_memory import host_memory_bytes
from gptoss_ray.planner.hardware import USABLE_MEMORY
from gptoss_ray.planner.memory import MemoryPlan, check_fits, experts_after_losses, gigabytes, plan_memory
from gptoss_ray.planner.weights import WeightFormat, unpacked_experts_fit
from gptoss_ray.ranks.rank_facts import RankFacts


def plan_rank_memory(
    config: ServedModelConfig, model: ModelConfig, *, is_native: bool | None = None
) -> MemoryPlan:
    """Work out what the fullest rank of a group holds on a machine like this one.

    Args:
        config: Of the group.
        model: Shape of the network.
        is_native: Whether its ranks run native kernels; None: if they would here.

    Raises:
        ConfigError: The kernels that `config` asks for cannot run here.
    """
    engine, parallel = config.engine, config.parallel
    if parallel.device == "cuda":
        return plan_memory(model, engine, parallel, weight_format=WeightFormat.of_triton(engine))
    if is_native is None:
        is_native = select_backend(engine, model).is_native
    if is_native:
        weight_format = WeightFormat.of_native(engine)
    else:
        unpacked = WeightFormat.of_torch(engine, experts_packed=False)
        are_unpacked = unpacked_experts_fit(
            model,
            experts_after_losses(model, parallel),
            unpacked.itemsize,
            host_memory_bytes() // parallel.num_ranks_per_node,
        )
        weight_format = unpacked if are_unpacked else WeightFormat.of_torch(engine, experts_packed=True)
    return plan_memory(model, engine, parallel, weight_format=weight_format)


def describe_memory(config: ServedModelConfig, plan: MemoryPlan) -> str:
    """Return a plan in one line."""
    parts = ", ".join(f"{name} {gigabytes(size)}" for name, size in plan.parts().items() if size)
    num_ranks = config.parallel.num_ranks
    ranks = "1 rank" if num_ranks == 1 else f"{num_ranks} ranks, each"
    return f"{config.name}: {ranks} {gigabytes(plan.total_bytes)} ({parts})"


def check_rank_memory(config: ServedModelConfig, plan: MemoryPlan, free_bytes: int, num_ranks: int) -> None:
    """Refuse to load `num_ranks` CPU ranks into the free memory of one node.

    Ranks on GPUs are judged by their cards (`check_card_memory`).

    Raises:
        ConfigError: With each part's size, and what is missing.
    """
    if config.parallel.device == "cpu":
        _check(config, plan, free_bytes // num_ranks)


def check_card_memory(config: ServedModelConfig, plan: MemoryPlan, free_bytes: int) -> None:
    """Refuse to load a rank into the free memory of its card.

    Raises:
        ConfigError: With each part's size, and what is missing.
    """
    _check(config, plan, int(USABLE_MEMORY * free_bytes))


def _check(config: ServedModelConfig, plan: MemoryPlan, available_bytes: int) -> None:
    try:
        check_fits(plan, available_bytes)
    except ConfigError as error:
        raise ConfigError(f"{config.name}: {error.message}", param=error.param) from None


def check_group_memory(
    config: ServedModelConfig, model: ModelConfig, facts: Sequence[RankFacts]
) -> MemoryPlan:
    """Refuse a group that the memory of one of its nodes or cards cannot hold; return the plan of a rank.

    Args:
        config: Of the group.
        model: Shape of the network.
        facts: Of all ranks; they compute alike.

    Raises:
        ConfigError: See `check_rank_memory`.
    """
    plan = plan_rank_memory(config, model, is_native=facts[0].is_native)
    for host_id, num_ranks in Counter(fact.host_id for fact in facts).items():
        free_bytes = min(fact.free_memory_bytes for fact in facts if fact.host_id == host_id)
        check_rank_memory(config, plan, free_bytes, num_ranks)
    for fact in facts:
        if fact.free_card_bytes is not None:
            check_card_memory(config, plan, fact.free_card_bytes)
    return plan
