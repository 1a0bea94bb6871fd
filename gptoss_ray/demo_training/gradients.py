"""Gradients of one step, and processes that compute a share of them on cores of their own.

Small matrices gain little from a second thread and much from a second process: each has its own samples and
works from the same masters in shared memory.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection

import torch
import torch.multiprocessing as mp
from torch import Tensor

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.demo_training import fused
from gptoss_ray.demo_training.batch import Branch, PackedBatch
from gptoss_ray.demo_training.cross_entropy import CrossEntropy
from gptoss_ray.demo_training.network import forward
from gptoss_ray.demo_training.parameters import Parameters
from gptoss_ray.demo_training.recipe import Recipe
from gptoss_ray.demo_training.vocabulary import demo_encoding


@dataclass(frozen=True)
class StepSums:
    """Sums over the samples of a step or of a share of it."""

    loss: float
    num_targets: int
    num_tokens: int

    def __add__(self, other: StepSums) -> StepSums:
        return StepSums(
            self.loss + other.loss,
            self.num_targets + other.num_targets,
            self.num_tokens + other.num_tokens,
        )


def add_gradients(
    config: ModelConfig, parameters: Parameters, samples: Sequence[Branch], balance_weight: float
) -> StepSums:
    """Set the masters' `grad` to the gradients summed over the samples' tokens."""
    batch = PackedBatch.pack(samples, config.sliding_window)
    output = forward(config, parameters.rounded, batch)
    loss = CrossEntropy.apply(output.logits, batch.targets)  # type: ignore[no-untyped-call]
    num_targets = int((batch.targets >= 0).sum())
    torch.autograd.backward(loss + num_targets * balance_weight * output.balance)
    parameters.take_gradients()
    return StepSums(loss.item(), num_targets, sum(len(sample.tokens) for sample in samples))


class GradientProcess:
    """Another process that computes its share of every step's gradients."""

    def __init__(
        self,
        config: ModelConfig,
        recipe: Recipe,
        masters: dict[str, Tensor],
        process: int,
        num_processes: int,
    ) -> None:
        """Start it; `masters` must lie in shared memory."""
        context = mp.get_context("spawn")
        self._gradients = {name: _shared_zeros(master) for name, master in masters.items()}
        self._connection, theirs = context.Pipe()
        shared = {name: master.detach() for name, master in masters.items()}
        arguments = (
            theirs,
            config,
            recipe,
            shared,
            self._gradients,
            process,
            num_processes,
            fused.is_compiled,
        )
        context.Process(target=_serve, args=arguments, daemon=True).start()

    def begin(self, step: int) -> None:
        """Let it work on the step with the masters as they are now."""
        self._connection.send(step)

    def finish(self, masters: dict[str, Tensor]) -> StepSums:
        """Wait for it and add its gradients to the masters'."""
        sums: StepSums = self._connection.recv()
        for name, master in masters.items():
            assert master.grad is not None
            master.grad += self._gradients[name]
        return sums


def _shared_zeros(like: Tensor) -> Tensor:
    zeros = torch.zeros_like(like)
    zeros.share_memory_()  # type: ignore[no-untyped-call]
    return zeros


def _serve(
    connection: Connection,
    config: ModelConfig,
    recipe: Recipe,
    masters: dict[str, Tensor],
    gradients: dict[str, Tensor],
    process: int,
    num_processes: int,
    is_compiled: bool,
) -> None:
    """Work on the steps that come in until the other end is gone."""
    torch.set_num_threads(1)
    if is_compiled:
        fused.compile_all()
    encoding = demo_encoding()
    parameters = Parameters(masters)

    @functools.lru_cache(maxsize=1)
    def draw(step: int) -> list[Branch]:
        return recipe.samples(encoding, step, process, num_processes)

    while True:
        try:
            step = connection.recv()
        except EOFError:
            return
        parameters.round()
        sums = add_gradients(config, parameters, draw(step), recipe.balance_weight)
        for name, master in parameters.masters.items():
            assert master.grad is not None
            gradients[name].copy_(master.grad)
        connection.send(sums)
        draw(step + 1)  # While the first process moves the masters.
