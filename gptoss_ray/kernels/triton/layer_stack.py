"""TritonLayerStack: the layers of a rank that has all experts, checked once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gptoss_ray.kernels.kernels import LayerStack, LayerWeights, Norm
from gptoss_ray.kernels.triton.expert_table import triton_experts


@dataclass(frozen=True)
class TritonLayerStack:
    """A LayerStack: the layers in order."""

    layers: tuple[LayerWeights, ...]

    @classmethod
    def of(cls, layers: Sequence[LayerWeights]) -> TritonLayerStack:
        """Keep the layers; ValueError if there are none, or one lacks experts that its gate chooses."""
        if not layers:
            raise ValueError("layers are none; there must be at least one")
        for index, layer in enumerate(layers):
            num_experts, num_chosen = len(triton_experts(layer.table)), len(layer.gate.weight)
            if num_experts != num_chosen:
                raise ValueError(f"layer {index} has {num_experts} experts, and a gate for {num_chosen}")
        return cls(tuple(layers))

    @property
    def num_experts(self) -> int:
        """Most of any layer."""
        return max(len(layer.gate.weight) for layer in self.layers)

    def norm_behind(self, index: int) -> Norm | None:
        """Return the norm that layer `index` is followed by; None: it is the last."""
        return self.layers[index + 1].attention.norm if index + 1 < len(self.layers) else None


def triton_stack(stack: LayerStack) -> TritonLayerStack:
    """Return the stack as what it is; ValueError if other kernels made it."""
    if isinstance(stack, TritonLayerStack):
        return stack
    raise ValueError(f"stack is a {type(stack).__name__}; it must be one of TritonKernels.layer_stack")
