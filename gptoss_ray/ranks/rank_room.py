"""What the ranks of a group have room for, in requests and in KV blocks: arithmetic on estimates. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.config import EngineConfig
from gptoss_ray.planner.kv import blocks_per_sequence, bytes_per_block

FIRST_OUTPUT_TOKENS = 256
"""What an output is thought to have before any has ended."""

_WEIGHT_OF_LATEST = 0.05


@dataclass(frozen=True, slots=True)
class RankRoom:
    """What one rank takes.

    Attributes:
        max_live: Requests at once: its seats, and a few more, so that a seat is never empty while the next
            request is on its way.
        num_blocks: Its KV blocks.
        blocks_of: Blocks of a sequence of so many tokens.
    """

    max_live: int
    num_blocks: int
    blocks_of: Callable[[int], int]

    @classmethod
    def of(cls, config: EngineConfig, model: ModelConfig) -> RankRoom:
        """Return the room of a rank with this engine."""
        block_bytes = bytes_per_block(model, config.kv_block_size, config.kv_itemsize)
        num_spare = min(config.max_queued_requests, max(1, config.max_num_sequences // 8))
        return cls(
            max_live=config.max_num_sequences + num_spare,
            num_blocks=config.kv_cache_bytes // block_bytes,
            blocks_of=lambda num_tokens: blocks_per_sequence(model, config.kv_block_size, num_tokens),
        )


class OutputEstimate:
    """How long outputs are, from those that have ended: a mean in which the latest count most.

    The mean, and not the limit that a client sets, is what many requests together fill the cache with. Where
    they run longer, the scheduler preempts, and nothing is lost.
    """

    def __init__(self) -> None:
        self._mean = float(FIRST_OUTPUT_TOKENS)

    def of(self, max_tokens: int) -> int:
        """Return how many tokens an output with this limit is thought to have."""
        return min(max_tokens, round(self._mean))

    def note(self, num_tokens: int) -> None:
        """Learn of an output that ran to its end."""
        self._mean += _WEIGHT_OF_LATEST * (num_tokens - self._mean)
