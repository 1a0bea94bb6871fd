"""What a training run is made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from random import Random

from gptoss_ray.demo_training.batch import Branch
from gptoss_ray.demo_training.conversations import Mixture, draw_group
from gptoss_ray.demo_training.skills import copying, drills
from gptoss_ray.harmony.encoding import HarmonyEncoding


@dataclass(frozen=True)
class Recipe:
    """The same recipe draws the same data, whatever the number of processes.

    Attributes:
        seed: Of the parameters and the data.
        copying_steps: So many steps on random tokens come first.
        groups_per_step: Groups of chats in one step; two groups of drills come on top.
        adam_rate: Peak learning rate of embeddings, gates, norms and biases.
        muon_rate: Peak learning rate of the matrices.
        decay_share: Last share of the run in which the rates fall to zero.
        balance_weight: Of the loss that spreads tokens over experts.
        mixture: How often each skill comes up.
    """

    seed: int = 1
    copying_steps: int = 120
    groups_per_step: int = 4
    adam_rate: float = 1.5e-3
    muon_rate: float = 0.01
    decay_share: float = 0.8
    balance_weight: float = 0.01
    mixture: Mixture = field(default_factory=Mixture)

    def samples(
        self, encoding: HarmonyEncoding, step: int, process: int = 0, num_processes: int = 1
    ) -> list[Branch]:
        """Draw the samples of a step, or one process's share of them."""
        samples: list[Branch] = []
        for index in range(process, self.groups_per_step + 2, num_processes):
            rng = Random(f"{self.seed} {step} {index}")
            if index > self.groups_per_step:
                samples += drills.draw_functions(encoding, rng)
            elif step < self.copying_steps:
                samples += copying.draw_group(rng, encoding.num_ranks, encoding.start, 12)
            elif index == self.groups_per_step:
                samples += drills.draw_group(encoding, rng)
            else:
                samples += draw_group(encoding, rng, self.mixture)
        return samples
