"""The network's parameters: fp32 masters that the optimisers move, and their bf16 or MXFP4 values in use.

Every forward runs on exactly what the exported checkpoint will hold; gradients pass the rounding unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.demo_training.copying_heads import begin_with_copying
from gptoss_ray.demo_training.precision import compute_dtype
from gptoss_ray.demo_training.quantization import round_to_mxfp4
from gptoss_ray.demo_training.shape import parameter_shapes
from gptoss_ray.demo_training.vocabulary import Landmarks

QUANTIZED = ("experts.gate_up.weight", "experts.down.weight")


class Parameters:
    """Masters and the rounded leaves made from them.

    Attributes:
        masters: Name to fp32 tensor.
        rounded: Name to leaf tensor of bf16 or MXFP4 values; after a backward its `grad` is set.
    """

    def __init__(self, masters: dict[str, Tensor]) -> None:
        self.masters = {name: master.requires_grad_() for name, master in masters.items()}
        self.rounded = {name: torch.empty_like(m, dtype=compute_dtype()) for name, m in masters.items()}
        self.round()

    @staticmethod
    def random(config: ModelConfig, seed: int, vocabulary: Landmarks) -> Parameters:
        """Draw parameters: unit-variance activations; nothing but copies is written to the residual."""
        generator = torch.Generator().manual_seed(seed)
        masters: dict[str, Tensor] = {}
        for name, size in parameter_shapes(config).items():
            if name.endswith("norm.weight"):
                masters[name] = torch.ones(size)
            elif "bias" in name or "sinks" in name:
                masters[name] = torch.zeros(size)
            else:
                masters[name] = torch.randn(size, generator=generator) * _deviation(name, size)
        begin_with_copying(config, masters, generator, vocabulary)
        return Parameters(masters)

    def share_memory(self) -> None:
        """Move the masters to shared memory, in place."""
        for master in self.masters.values():
            master.data.share_memory_()  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def round(self) -> None:
        """Refresh the rounded leaves from the masters and clear their gradients."""
        for name, master in self.masters.items():
            leaf = self.rounded[name].detach()
            leaf.copy_(round_to_mxfp4(master) if name.endswith(QUANTIZED) else master.bfloat16())
            self.rounded[name] = leaf.requires_grad_()

    def take_gradients(self) -> None:
        """Hand the rounded leaves' gradients to the masters."""
        for name, master in self.masters.items():
            gradient = self.rounded[name].grad
            assert gradient is not None
            master.grad = gradient.float()
            self.rounded[name].grad = None


def _deviation(name: str, size: tuple[int, ...]) -> float:
    if name.endswith(("out.weight", "down.weight")):
        return 0.0
    return float(0.5 if name == "embedding.weight" else size[-1] ** -0.5)
