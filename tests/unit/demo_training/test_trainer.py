from __future__ import annotations

from pathlib import Path
from statistics import mean

import pytest
import torch

from gptoss_ray.demo_training.recipe import Recipe
from gptoss_ray.demo_training.shape import demo_config
from gptoss_ray.demo_training.trainer import Trainer
from gptoss_ray.harmony.encoding import HarmonyEncoding


@pytest.fixture
def trainer(encoding: HarmonyEncoding) -> Trainer:
    return Trainer(demo_config(encoding), encoding, Recipe(copying_steps=0, groups_per_step=1))


def test_steps_lower_the_loss(encoding: HarmonyEncoding) -> None:
    drills = Recipe(copying_steps=0, groups_per_step=0)
    trainer = Trainer(demo_config(encoding), encoding, drills)
    losses = [trainer.step(0.0) for _ in range(16)]  # each on other samples, at the rates of the warm-up
    assert mean(losses[-4:]) < mean(losses[:4]) - 0.8


def test_a_snapshot_brings_back_parameters_and_progress(
    trainer: Trainer, encoding: HarmonyEncoding, tmp_path: Path
) -> None:
    trainer.step(0.0)
    trainer.save(tmp_path)
    resumed = Trainer(trainer.config, encoding, trainer.recipe, snapshot=tmp_path)
    assert resumed.progress == trainer.progress
    for name, master in trainer.parameters.masters.items():
        assert torch.equal(resumed.parameters.masters[name], master)


def test_samples_are_a_function_of_seed_and_step_whatever_the_processes(encoding: HarmonyEncoding) -> None:
    recipe = Recipe(copying_steps=0)
    alone = recipe.samples(encoding, 7)
    assert alone == recipe.samples(encoding, 7)
    assert alone != recipe.samples(encoding, 8)
    shares = [sample for process in range(2) for sample in recipe.samples(encoding, 7, process, 2)]
    assert sorted(shares, key=str) == sorted(alone, key=str)


def test_two_processes_take_the_step_of_one(encoding: HarmonyEncoding) -> None:
    config, recipe = demo_config(encoding), Recipe(copying_steps=0, groups_per_step=1)
    alone = Trainer(config, encoding, recipe)
    together = Trainer(config, encoding, recipe, num_processes=2)
    assert together.step(0.0) == pytest.approx(alone.step(0.0), rel=1e-3)
    assert together.progress.num_tokens == alone.progress.num_tokens
    name = "layers.3.experts.down.weight"
    torch.testing.assert_close(
        together.parameters.masters[name].grad, alone.parameters.masters[name].grad, rtol=0.1, atol=1e-3
    )
