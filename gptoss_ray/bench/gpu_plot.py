"""Tokens a second over streams (a line a context) and over prompts: at most, measured, by transformers."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gptoss_ray.bench.gpu_cases import GpuStep
from gptoss_ray.bench.transformers_comparison import ComparedStep
from gptoss_ray.errors import ConfigError
from gptoss_ray.planner.gpu_steps import Ceilings


def plot(
    title: str,
    steps: Sequence[GpuStep],
    ceilings: Ceilings,
    path: Path,
    *,
    compared: Sequence[ComparedStep] = (),
) -> None:
    """Draw a figure; what has not run is drawn on paper alone, and the title says so.

    Args:
        title: Of the figure.
        steps: Of ours.
        ceilings: Of the card.
        path: Where the figure is written.
        compared: Steps of transformers, of the same numbers of streams and tokens.

    Raises:
        ConfigError: matplotlib is missing; it comes with the extra `dev`.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (a development dependency)
    except ImportError:
        raise ConfigError("--plot needs matplotlib; install it, or leave the option out.") from None
    kinds = [kind for kind in ("decode", "prompt") if any(step.kind == kind for step in steps)]
    figure = Figure(figsize=(6.4 * len(kinds), 4.4), layout="constrained")
    for number, kind in enumerate(kinds, start=1):
        axes = figure.add_subplot(1, len(kinds), number)
        axes.set_xscale("log", base=2)
        axes.set_yscale("log")
        axes.set_ylabel("tokens a second")
        mine = [step for step in steps if step.kind == kind]
        theirs = [step for step in compared if step.kind == kind and step.theirs_s]
        if kind == "prompt":
            axes.set_xlabel("tokens of a prompt")
            _draw(axes, "C0", "", [(step.num_tokens, step) for step in mine], ceilings)
            _draw_peer(axes, "C0", "", [(step.num_tokens, step) for step in theirs])
        else:
            axes.set_xlabel("streams")
            for colour, context in enumerate(sorted({step.num_tokens for step in mine})):
                name = f"{context} tokens, "
                points = [(step.num_streams, step) for step in mine if step.num_tokens == context]
                _draw(axes, f"C{colour}", name, points, ceilings)
                peer = [(step.num_streams, step) for step in theirs if step.num_tokens == context]
                _draw_peer(axes, f"C{colour}", name, peer)
        axes.legend(fontsize=7)
    has_run = any(step.seconds for step in steps)
    figure.suptitle(title if has_run else f"{title}: on paper, never run on a GPU")
    figure.savefig(path)


def _draw(
    axes: Any, colour: str, name: str, points: Sequence[tuple[int, GpuStep]], ceilings: Ceilings
) -> None:
    at_most = [step.made / step.roofline_s(ceilings) for _, step in points]
    axes.plot([x for x, _ in points], at_most, ".--", color=colour, label=f"{name}roofline")
    ran = [(x, step.made / statistics.median(step.seconds)) for x, step in points if step.seconds]
    if ran:
        axes.plot(*zip(*ran, strict=True), "o-", color=colour, label=f"{name}measured")


def _draw_peer(axes: Any, colour: str, name: str, points: Sequence[tuple[int, ComparedStep]]) -> None:
    rates = [(x, step.made / statistics.median(step.theirs_s)) for x, step in points]
    if rates:
        axes.plot(*zip(*rates, strict=True), "x:", color=colour, label=f"{name}transformers")
