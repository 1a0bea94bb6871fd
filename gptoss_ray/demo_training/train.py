"""Trains the demo model: `python -m gptoss_ray.demo_training --out DIR --minutes 80`."""

from __future__ import annotations

import argparse
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

import torch

from gptoss_ray.demo_training import fused
from gptoss_ray.demo_training.evaluation import describe_mistakes, evaluate, held_out_branches
from gptoss_ray.demo_training.export import export
from gptoss_ray.demo_training.recipe import Recipe
from gptoss_ray.demo_training.shape import demo_config
from gptoss_ray.demo_training.trainer import Trainer
from gptoss_ray.demo_training.vocabulary import demo_encoding

_SECONDS_PER_LINE = 15
_SECONDS_PER_SNAPSHOT = 300
_SECONDS_PER_EVALUATION = 1200
_QUESTIONS_PER_SKILL = 120
_EVALUATION_SEED = 12345


def main() -> None:
    """Train until the time is up, then write the checkpoint."""
    arguments = _arguments()
    torch.set_num_threads(1)
    fused.compile_all()
    encoding = demo_encoding()
    snapshot = arguments.work if (arguments.work / "progress.json").exists() else None
    recipe = Recipe(seed=arguments.seed, decay_share=arguments.decay_share)
    config = demo_config(encoding)
    trainer = Trainer(config, encoding, recipe, num_processes=arguments.processes, snapshot=snapshot)
    print(f"starting at step {trainer.progress.step}", flush=True)
    questions = held_out_branches(encoding, _QUESTIONS_PER_SKILL, _EVALUATION_SEED)

    def report() -> None:
        trainer.parameters.round()
        evaluation = evaluate(config, trainer.parameters, questions)
        print(f"held out: {evaluation}", flush=True)
        mistakes = describe_mistakes(encoding, evaluation)
        (arguments.work / "mistakes.txt").write_text(mistakes, encoding="utf-8")

    _train(trainer, arguments.minutes * 60, lambda: trainer.save(arguments.work), report)
    trainer.save(arguments.work)
    report()
    export(arguments.out, config, trainer.parameters.masters, encoding)
    print(f"wrote {arguments.out}", flush=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the demo model.")
    parser.add_argument("--out", type=Path, required=True, help="new folder for the checkpoint")
    parser.add_argument(
        "--work", type=Path, default=Path("demo-training"), help="snapshots; resumed from if present"
    )
    parser.add_argument("--minutes", type=float, default=80, help="time to train, resumed time included")
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--processes", type=int, default=2, help="each keeps one core busy")
    parser.add_argument(
        "--decay-share", type=float, default=Recipe.decay_share, help="last share of the time"
    )
    return parser.parse_args()


@dataclass
class _Interval:
    """Comes round every so many seconds."""

    seconds: float
    last: float

    def is_over(self, now: float) -> bool:
        """Whether it is over; if so, the next one begins."""
        if now - self.last < self.seconds:
            return False
        self.last = now
        return True


def _train(trainer: Trainer, budget_s: float, save: Callable[[], None], report: Callable[[], None]) -> None:
    """Step until the budget is spent; a line now and then, a snapshot less often, a report least."""
    losses: deque[float] = deque(maxlen=50)
    before = trainer.progress.seconds
    started = time.monotonic()
    line = _Interval(_SECONDS_PER_LINE, started)
    snapshot = _Interval(_SECONDS_PER_SNAPSHOT, started)
    evaluation = _Interval(_SECONDS_PER_EVALUATION, started)
    while trainer.progress.seconds < budget_s:
        losses.append(trainer.step(trainer.progress.seconds / budget_s))
        now = time.monotonic()
        trainer.progress.seconds = before + now - started
        if line.is_over(now):
            print(_line(trainer, mean(losses), budget_s), flush=True)
        if snapshot.is_over(now):
            save()
        if evaluation.is_over(now):
            report()


def _line(trainer: Trainer, loss: float, budget_s: float) -> str:
    progress = trainer.progress
    minutes, left = progress.seconds / 60, (budget_s - progress.seconds) / 60
    tokens, rate = progress.num_tokens / 1e6, progress.num_tokens / progress.seconds
    return (
        f"{minutes:5.1f} min, {left:.1f} to go | step {progress.step} | "
        f"{tokens:.2f} M tokens, {rate:.0f}/s | loss {loss:.4f}"
    )
