"""ExpertRebalancer: moves the experts of a group in service to where the load calls for them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import numpy as np

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import ParallelConfig
from gptoss_ray.parallel.expert_placement import LayerPlacement, contiguous
from gptoss_ray.ranks.layer_swap import LayerSwap
from gptoss_ray.ranks.rebalancing import better_placement

logger = logging.getLogger(__name__)

AskRank = Callable[..., Awaitable[Any]]
"""(rank, method of EngineRank, *args) -> its result."""


class ExpertRebalancer:
    """Asks the ranks for their loads from time to time, and swaps the layers that are worth it, one by one.

    A swap has two phases. Every rank prepares it, beside its steps; only when all could, all are told to
    make it, and then it is made at the same step on every rank. So a rank that cannot read its new
    experts leaves all on the old placement.

    Args:
        ask: Calls a method of a rank.
        model: Shape of the network.
        config: Of the group.
        hosts: Host of every rank.
        placements: Where the experts of every layer are; contiguous where not given.
        version: Of these.
        note_swap: Called with layer and version when a swap was made.
    """

    def __init__(
        self,
        ask: AskRank,
        model: ModelConfig,
        config: ParallelConfig,
        hosts: Sequence[str],
        *,
        placements: Sequence[LayerPlacement] | None = None,
        version: int = 0,
        note_swap: Callable[[int, int], None] = lambda _layer, _version: None,
    ) -> None:
        self._note_swap = note_swap
        self._ask = ask
        self._config = config
        self._hosts = tuple(hosts)
        self._placements = list(
            placements or [contiguous(model.num_experts, config.num_ranks)] * model.num_layers
        )
        self._choices_per_token = model.num_experts_per_token
        self._version = version
        self._loads = np.zeros((config.num_ranks, model.num_layers, model.num_experts), np.int64)

    @property
    def placements(self) -> tuple[LayerPlacement, ...]:
        """Where the experts of every layer are."""
        return tuple(self._placements)

    @property
    def version(self) -> int:
        """Of the last swap that was made; one more may be under way."""
        return self._version

    async def run(self) -> None:
        """Rebalance every `rebalance_interval_s` until cancelled, or until a rank no longer answers.

        Whether some ranks were told of a swap that others were not is then unknown, and the group, which
        has lost a rank, is about to be replaced.
        """
        try:
            while True:
                await asyncio.sleep(self._config.rebalance_interval_s)
                await self.rebalance()
        except Exception as error:
            logger.warning("rebalancing_ended version=%d reason=%s", self._version, _one_line(error))

    async def rebalance(self) -> None:
        """Look at the load once, and make the swaps that are worth it; too little load is kept for later."""
        self._loads += np.array(await self._ask_all("take_expert_load"))
        num_tokens = self._loads[:, 0].sum() // self._choices_per_token
        if num_tokens < self._config.rebalance_min_tokens:
            return
        loads, self._loads = self._loads, np.zeros_like(self._loads)
        for layer, present in enumerate(self._placements):
            found = await asyncio.to_thread(
                better_placement, loads[:, layer], present, self._config.num_spare_experts, self._hosts
            )
            if found is not None and not await self._swap(layer, found):
                return

    async def _swap(self, layer: int, placement: LayerPlacement) -> bool:
        """Have every rank swap a layer; False, and all are as before, where one cannot prepare it."""
        swap = LayerSwap(self._version + 1, layer, placement, self._hosts)
        try:
            await self._ask_all("prepare_swap", swap)
        except Exception as error:
            reason = _one_line(error)
            logger.warning("swap_dropped version=%d layer=%d reason=%s", swap.version, layer, reason)
            return False
        await self._ask_all("make_swap", swap.version)
        self._version = swap.version
        self._placements[layer] = placement
        self._note_swap(layer, swap.version)
        logger.info("experts_swapped version=%d layer=%d", swap.version, layer)
        return True

    async def _ask_all(self, method: str, *args: object) -> list[Any]:
        """Call a method of every rank; when all have ended, the first failure is raised."""
        calls = [self._ask(rank, method, *args) for rank in range(self._config.num_ranks)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, BaseException):
                raise answer
        return answers


def _one_line(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())
