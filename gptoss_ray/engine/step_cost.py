"""What a step costs by its rows, so that drafts are checked where they pay.

Worked out from the shape: rows more read more experts, which is most of what a small step of such a model
reads, and compute more, which is most of what a large one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence as ReadOnlySequence
from dataclasses import dataclass

from gptoss_ray.checkpoint.model_config import MXFP4_BITS, ModelConfig
from gptoss_ray.config import DENSE_BITS, EngineConfig

OPS_PER_BYTE = {"bfloat16": 12.0, "int8": 17.0}
"""What a CPU computes in the time in which it reads a byte, by the format of activations: what kernels get of
`vdpbf16ps` and `vpdpbusd` over 8 to 16 rows, beside the memory of two Zen 4 cores."""
OVERHEAD_BYTES = 45e6
"""What such a CPU reads in the time that a step spends outside of the kernels."""
DRAW_PASSES = 5
"""Over a row of logits."""
MIN_GAIN = 1.1
"""Drafts that promise less are not checked: the cost is known no better than that."""


@dataclass(frozen=True)
class StepCost:
    """The cost of steps, in bytes that could be read meanwhile.

    Attributes:
        model: Its shape.
        engine: Formats of weights and activations.
    """

    model: ModelConfig
    engine: EngineConfig

    def of(self, num_rows: int) -> float:
        """Return what a step of so many rows costs.

        Reading and arithmetic overlap in part, so it is between the longer of the two and their sum. At 1 and
        16 rows of gpt-oss-20b's shape the root of the sum of squares is within a tenth of what was measured.
        """
        computing = num_rows * self._row_ops / OPS_PER_BYTE[self.engine.activations]
        drawing = num_rows * DRAW_PASSES * 4 * self.model.vocab_size
        return math.hypot(self._read_bytes(num_rows), computing) + drawing + OVERHEAD_BYTES

    @property
    def _num_dense_values(self) -> int:
        """In the matrices of attention and the unembedding."""
        model = self.model
        heads = 2 * model.num_attention_heads + 2 * model.num_key_value_heads
        return model.hidden_size * (model.num_layers * heads * model.head_dim + model.vocab_size)

    @property
    def _num_expert_values(self) -> int:
        """In one expert of every layer."""
        return 3 * self.model.num_layers * self.model.intermediate_size * self.model.hidden_size

    @property
    def _row_ops(self) -> float:
        return 2.0 * (self._num_dense_values + self.model.num_experts_per_token * self._num_expert_values)

    def _read_bytes(self, num_rows: int) -> float:
        bits = MXFP4_BITS if self.model.expert_format == "mxfp4" else DENSE_BITS["bfloat16"]
        experts = self.model.expected_experts(num_rows) * self._num_expert_values * bits
        return (self._num_dense_values * DENSE_BITS[self.engine.dense_weights] + experts) / 8


def worthwhile_lengths(
    drafts: ReadOnlySequence[tuple[float, int]], cost: StepCost, num_other_rows: int, max_num_tokens: int
) -> list[int]:
    """Return how much of each draft to check, so that a step makes most tokens for what it costs.

    Likely tokens come first; of all numbers of them, the best is taken. Where rows cost as much as tokens are
    worth (many sequences that compute), that is none.

    Args:
        drafts: Of each: how likely one more token of it is right, and its length.
        cost: Of steps.
        num_other_rows: Of the step: those of prompts, and of sequences without a draft.
        max_num_tokens: Most tokens of drafts.
    """
    chances = [
        (likelihood**place, number)
        for number, (likelihood, length) in enumerate(drafts)
        for place in range(1, length + 1)
    ]
    chances.sort(key=lambda chance: -chance[0])
    num_rows = len(drafts) + num_other_rows
    num_tokens = float(len(drafts))
    best_rate, num_worthwhile = MIN_GAIN * num_tokens / cost.of(num_rows) if drafts else 0.0, 0
    for number, (likelihood, _) in enumerate(chances[:max_num_tokens], 1):
        num_tokens += likelihood
        rate = num_tokens / cost.of(num_rows + number)
        if rate > best_rate:
            best_rate, num_worthwhile = rate, number
    lengths = [0] * len(drafts)
    for _, number in chances[:num_worthwhile]:
        lengths[number] += 1
    return lengths
