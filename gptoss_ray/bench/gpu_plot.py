"""Tokens a second of decode steps, measured and at most, over the streams; one line a context."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

from gptoss_ray.bench.gpu_cases import GpuStep
from gptoss_ray.errors import ConfigError
from gptoss_ray.planner.gpu_steps import Ceilings


def plot(title: str, steps: Sequence[GpuStep], ceilings: Ceilings, path: Path) -> None:
    """Draw a figure; what has not run is drawn on paper alone, and the title says so.

    Raises:
        ConfigError: matplotlib is missing; it comes with the extra `dev`.
    """
    try:
        from matplotlib.figure import Figure  # noqa: PLC0415  (a development dependency)
    except ImportError:
        raise ConfigError("--plot needs matplotlib; install it, or leave the option out.") from None
    decode = [step for step in steps if step.kind == "decode"]
    has_run = any(step.seconds for step in decode)
    figure = Figure(figsize=(6.4, 4.4), layout="constrained")
    axes = figure.subplots()
    for number, context in enumerate(sorted({step.num_tokens for step in decode})):
        mine = [step for step in decode if step.num_tokens == context]
        streams = [step.num_streams for step in mine]
        at_most = [step.made / step.roofline_s(ceilings) for step in mine]
        axes.plot(streams, at_most, "--", color=f"C{number}", label=f"{context} tokens, roofline")
        if has_run:
            ran = [step for step in mine if step.seconds]
            rates = [step.made / statistics.median(step.seconds) for step in ran]
            label = f"{context} tokens, measured"
            axes.plot([step.num_streams for step in ran], rates, "o-", color=f"C{number}", label=label)
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel("streams")
    axes.set_ylabel("tokens a second")
    axes.set_title(title if has_run else f"{title}: on paper, never run on a GPU")
    axes.legend(fontsize=7)
    figure.savefig(path)
