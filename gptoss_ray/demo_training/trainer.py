"""One training run: parameters, optimisers, and the step that moves them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.demo_training.gradients import GradientProcess, add_gradients
from gptoss_ray.demo_training.muon import Muon
from gptoss_ray.demo_training.parameters import Parameters
from gptoss_ray.demo_training.recipe import Recipe
from gptoss_ray.demo_training.vocabulary import landmarks
from gptoss_ray.harmony.encoding import HarmonyEncoding

_MATRICES = (".q.weight", ".k.weight", ".v.weight", ".out.weight", ".gate_up.weight", ".down.weight")
_WARM_UP_STEPS = 100
_MAX_GRADIENT_NORM = 1.0


@dataclass
class Progress:
    """How far a run is; what a snapshot keeps beside the parameters."""

    step: int = 0
    num_tokens: int = 0
    seconds: float = 0.0


class Trainer:
    """Holds a run's state; `step` moves it on."""

    def __init__(
        self,
        config: ModelConfig,
        encoding: HarmonyEncoding,
        recipe: Recipe,
        *,
        num_processes: int = 1,
        snapshot: Path | None = None,
    ) -> None:
        """Begin with random parameters, or go on from a snapshot."""
        self.config, self.encoding, self.recipe = config, encoding, recipe
        if snapshot is None:
            self.parameters = Parameters.random(config, recipe.seed, landmarks(encoding))
            self.progress = Progress()
        else:
            self.parameters = Parameters(load_file(snapshot / "parameters.safetensors"))
            self.progress = Progress(**json.loads((snapshot / "progress.json").read_text()))
        masters = self.parameters.masters
        matrices = sorted(name for name in masters if name.endswith(_MATRICES))
        others = [master for name, master in masters.items() if name not in matrices]
        self._muon = Muon([masters[name] for name in matrices], weight_decay=0.05)
        self._adam = torch.optim.AdamW(others, betas=(0.9, 0.98), weight_decay=0.0, fused=True)
        if num_processes > 1:
            self.parameters.share_memory()
        self._num_processes = num_processes
        self._others = [
            GradientProcess(config, recipe, masters, process, num_processes)
            for process in range(1, num_processes)
        ]

    def step(self, share_done: float) -> float:
        """Take one step at this share of the run (0 to 1); returns the loss per token."""
        recipe, step, masters = self.recipe, self.progress.step, self.parameters.masters
        for other in self._others:
            other.begin(step)
        self.parameters.round()
        samples = recipe.samples(self.encoding, step, 0, self._num_processes)
        sums = add_gradients(self.config, self.parameters, samples, recipe.balance_weight)
        for other in self._others:
            sums += other.finish(masters)
        for master in masters.values():
            assert master.grad is not None
            master.grad /= sums.num_targets
        torch.nn.utils.clip_grad_norm_(masters.values(), _MAX_GRADIENT_NORM)
        rate = min(1.0, (step + 1) / _WARM_UP_STEPS, (1 - share_done) / recipe.decay_share)
        for group in self._adam.param_groups:
            group["lr"] = recipe.adam_rate * rate
        self._adam.step()
        threads = torch.get_num_threads()
        torch.set_num_threads(threads * self._num_processes)  # The other processes only draw data now.
        self._muon.step(recipe.muon_rate * rate)
        torch.set_num_threads(threads)
        self.progress.step += 1
        self.progress.num_tokens += sums.num_tokens
        return sums.loss / sums.num_targets

    def save(self, folder: Path) -> None:
        """Write a snapshot. The optimisers' momentum is not kept: it is back after a few dozen steps."""
        folder.mkdir(parents=True, exist_ok=True)
        masters = {name: master.detach() for name, master in self.parameters.masters.items()}
        save_file(masters, folder / "parameters.safetensors")
        (folder / "progress.json").write_text(json.dumps(asdict(self.progress)) + "\n")
