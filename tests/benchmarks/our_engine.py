"""`gptoss-ray bench engine` as one side of a comparison."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from alternation import Figures, Run, run


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add what both comparisons need to know."""
    parser.add_argument("--threads", type=int, required=True, help="threads of both sides")
    parser.add_argument("--rounds", type=int, default=3, help="runs of each side")
    parser.add_argument("--prompts", default="128,512,2048", help="prompts to read, in tokens")
    parser.add_argument("--shape", default="gpt-oss-20b", help="shape of our random checkpoint")
    parser.add_argument("--checkpoint", help="our checkpoint; one of the shape is made if not given")
    parser.add_argument("--packed", help="folder of our packed weights")
    parser.add_argument("--dense", default="int8", choices=["int8", "bfloat16"], help="our dense weights")
    parser.add_argument(
        "--activations", default="bfloat16", choices=["int8", "bfloat16"], help="our activations"
    )
    parser.add_argument("--kernels", default="native", choices=["native", "torch"], help="our kernels")
    parser.add_argument("--json", type=Path, help="write all figures here")


def measure(options: argparse.Namespace, *more: str) -> tuple[dict[str, Any], Run]:
    """Run the benchmark once; return its figures as it wrote them."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "engine.json"
        command = [sys.executable, "-m", "gptoss_ray.cli", "bench", "engine", "--no-starts"]
        command += ["--rounds", "1", "--threads", str(options.threads), "--dense", options.dense]
        command += ["--activations", options.activations]
        command += ["--kernels", options.kernels, "--prompts", options.prompts, "--json", str(file)]
        command += ["--shape", options.shape]
        for name in ("checkpoint", "packed"):
            if getattr(options, name) is not None:
                command += [f"--{name}", getattr(options, name)]
        ended = run([*command, *more])
        return json.loads(file.read_text(encoding="utf-8")), ended


def decode_name(num_streams: int, long_context: int = 0) -> str:
    """Return the name of a figure of streams that decode together, perhaps behind a long context."""
    return f"decode, {num_streams} streams" + (f" at {long_context}" if long_context else "")


def figures(document: dict[str, Any], long_context: int = 0) -> Figures:
    """Return the tokens a second under the names that the other sides use."""
    rates = {f"prompt of {row['tokens']}": row["tokens_per_s"] for row in document["prefill"]}
    for row in document["decode"]:
        context = long_context if row["context"] == long_context else 0
        rates[decode_name(row["streams"], context)] = row["tokens_per_s"]
    return rates


def ceilings_line(documents: Sequence[dict[str, Any]]) -> str:
    """Say how much the machine drifted, and what others took of it, while our side was measured."""
    reads = [row["read_gb_per_s"] for document in documents for row in document["ceilings"]]
    others = max(cpus for document in documents for cpus in document["others_cpus"])
    drift = f"{min(reads)} to {max(reads)} GB/s read" if reads else "ceilings not measured"
    return f"\nthe machine in our rounds: {drift}; others kept at most {others} CPUs busy"
