"""Predicted time of a decode step and of a prefill step: a roofline, times an efficiency.

A step takes the longer of reading (weights and KV over memory bandwidth) and arithmetic (over matrix
throughput), and then the exchange of every layer, which nothing overlaps. Rooflines are bounds; the
efficiencies below turn them into predictions and are assumptions, not measurements.
"""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.planner import kv
from gptoss_ray.planner.hardware import Accelerator
from gptoss_ray.planner.traffic import Wiring, layer_traffic
from gptoss_ray.planner.weights import WeightFormat, weigh

# Share of a device's peak that whole steps reach.
MEMORY_EFFICIENCY = 0.6
COMPUTE_EFFICIENCY = 0.4


@dataclass(frozen=True)
class StepTime:
    """Seconds of one step on every rank of a group.

    Attributes:
        memory_s: Reading weights and KV.
        compute_s: Arithmetic, at the same time.
        exchange_s: All-to-all and the agreement on the step, after both.
    """

    memory_s: float
    compute_s: float
    exchange_s: float

    @property
    def total_s(self) -> float:
        """The whole step."""
        return max(self.memory_s, self.compute_s) + self.exchange_s


@dataclass(frozen=True)
class Group:
    """A model on the ranks of one group.

    Attributes:
        model: The network.
        weight_format: As the ranks hold it.
        accelerator: One for each rank.
        wiring: Between them.
        max_padded_bytes: `parallel.max_padded_bytes`.
    """

    model: ModelConfig
    weight_format: WeightFormat
    accelerator: Accelerator
    wiring: Wiring
    max_padded_bytes: int

    def decode_step(self, num_streams: int, context: int) -> StepTime:
        """Return the time of a step that decodes one token of each of `num_streams` streams.

        The streams spread evenly over the ranks; `context` is the tokens before each stream's next one.
        """
        rows = -(-num_streams // self.wiring.num_ranks)
        kv_bytes = rows * kv.read_bytes(self.model, context, self.weight_format.kv_itemsize)
        flops = rows * (self._layers_flops() + 2 * self.model.vocab_size * self.model.hidden_size)
        flops += rows * attention_flops(self.model, context)
        return self._step(rows, num_streams, kv_bytes, flops)

    def prefill_step(self, num_tokens: int, context: int) -> StepTime:
        """Return the time of a step in which each rank computes `num_tokens` tokens of a prompt.

        `context` is the mean position in it. Logits are computed for no token: one a prompt is nothing.
        """
        kv_bytes = kv.read_bytes(self.model, context, self.weight_format.kv_itemsize)
        flops = num_tokens * (self._layers_flops() + attention_flops(self.model, context))
        return self._step(num_tokens, num_tokens * self.wiring.num_ranks, kv_bytes, flops)

    def _step(self, rows: int, num_tokens: int, kv_bytes: float, flops: float) -> StepTime:
        """Time a step of `rows` rows on this rank and `num_tokens` in the group."""
        model, device = self.model, self.accelerator
        num_experts = model.expected_experts(num_tokens) / self.wiring.num_ranks
        num_bytes = weigh(model, self.weight_format).read_bytes(num_experts) + kv_bytes
        traffic = layer_traffic(model, self.wiring.num_ranks, rows, self.max_padded_bytes)
        layer_s = self.wiring.exchange_s(traffic.num_bytes, traffic.num_collectives)
        return StepTime(
            memory_s=num_bytes / (MEMORY_EFFICIENCY * device.memory_bytes_per_s),
            compute_s=flops / (COMPUTE_EFFICIENCY * device.flops),
            exchange_s=model.num_layers * layer_s + self.wiring.exchange_s(0, 1),
        )

    def _layers_flops(self) -> int:
        """Return the operations of a token in all layers, attention's scores aside."""
        model = self.model
        query_width = model.num_attention_heads * model.head_dim
        kv_width = model.num_key_value_heads * model.head_dim
        attention = model.hidden_size * (2 * query_width + 2 * kv_width)
        gate = model.hidden_size * model.num_experts
        experts = model.num_experts_per_token * 3 * model.hidden_size * model.intermediate_size
        return 2 * model.num_layers * (attention + gate + experts)


def attention_flops(model: ModelConfig, context: int) -> int:
    """Return the operations of one token's scores and weighted sums over `context` keys, window included."""
    num_keys = sum(
        min(context, model.sliding_window) if model.is_sliding(layer) else context
        for layer in range(model.num_layers)
    )
    return 4 * num_keys * model.num_attention_heads * model.head_dim
