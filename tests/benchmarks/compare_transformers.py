#!/usr/bin/env python3
"""Compare gptoss-ray with transformers' GptOssForCausalLM in bfloat16 on this machine, in alternation.

The whole model in bfloat16 takes 42 GB at gpt-oss-20b's shape, so transformers is measured with few layers
at two depths, and the time of all layers is extrapolated: embedding and unembedding once, and so many times
the difference between the two depths. That is said again in the output. Weights are random on both sides.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import our_engine
from alternation import Figures, Side, alternate, report, run

if TYPE_CHECKING:
    import torch

    from gptoss_ray.checkpoint.model_config import ModelConfig


def extrapolate(seconds: dict[int, float], num_layers: int) -> float:
    """Return the seconds of `num_layers` layers from those of two depths."""
    (few, few_s), (more, more_s) = sorted(seconds.items())
    return few_s + (num_layers - few) * (more_s - few_s) / (more - few)


def measure_network(network: Any, vocab_size: int, prompts: Sequence[int], repeats: int) -> dict[str, float]:
    """Return the seconds (medians) of each prompt, and of a decode step behind 128 tokens."""
    import torch

    def random_ids(num_tokens: int) -> torch.Tensor:
        return torch.randint(vocab_size, (1, num_tokens))

    def prompt_s(num_tokens: int) -> float:
        ids = random_ids(num_tokens)
        return _median_s(lambda: network(ids, use_cache=True, logits_to_keep=1), repeats)

    with torch.inference_mode():
        seconds = {f"prompt of {num_tokens}": prompt_s(num_tokens) for num_tokens in prompts}
        cache = network(random_ids(128), use_cache=True, logits_to_keep=1).past_key_values
        one = random_ids(1)
        step_s = _median_s(lambda: network(one, past_key_values=cache, use_cache=True), 3 * repeats)
    return seconds | {"decode, 1 streams": step_s}


def measure_depths(
    model: ModelConfig, depths: Sequence[int], prompts: Sequence[int], repeats: int
) -> dict[str, dict[int, float]]:
    """Return the seconds of what is measured, by the number of layers."""
    import torch

    from gptoss_ray.bench.device_checkpoint import DeviceCheckpoint
    from gptoss_ray.bench.transformers_model import build

    device = torch.device("cpu")
    seconds: dict[str, dict[int, float]] = {}
    for num_layers in depths:
        checkpoint = DeviceCheckpoint(model.replace(num_layers=num_layers), device)
        measured = measure_network(build(checkpoint, device), model.vocab_size, prompts, repeats)
        gc.collect()
        for name, value in measured.items():
            seconds.setdefault(name, {})[num_layers] = value
    return seconds


def _median_s(call: Callable[[], object], repeats: int) -> float:
    call()
    seconds = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - began)
    return statistics.median(seconds)


def measure_transformers(options: argparse.Namespace) -> tuple[Figures, float]:
    """Measure in a process of its own; return tokens a second of all layers, extrapolated."""
    command = [sys.executable, __file__, "--child", "--threads", str(options.threads)]
    command += ["--prompts", options.prompts, "--depths", options.depths, "--shape", options.shape]
    ended = run([*command, "--repeats", str(options.repeats)])
    document = json.loads(ended.output.splitlines()[-1])
    num_layers = document["num_layers"]
    figures = {}
    for name, by_depth in document["seconds"].items():
        seconds = {int(depth): value for depth, value in by_depth.items()}
        num_tokens = int(name.rpartition(" ")[2]) if name.startswith("prompt") else 1
        figures[name] = num_tokens / extrapolate(seconds, num_layers)
    return figures, ended.peak_gb


def be_transformers(options: argparse.Namespace, depths: Sequence[int]) -> None:
    """Measure transformers in this process; print seconds as JSON, for the process that compares."""
    import torch

    from gptoss_ray.bench.synthetic_folder import shape_of

    torch.set_num_threads(options.threads)
    model = shape_of(options.shape)
    prompts = [int(prompt) for prompt in options.prompts.split(",")]
    seconds = measure_depths(model, depths, prompts, options.repeats)
    print(json.dumps({"num_layers": model.num_layers, "seconds": seconds}))


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depths", default="2,4", help="the two numbers of layers of transformers' model")
    parser.add_argument("--repeats", type=int, default=3, help="calls of transformers in a round")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    our_engine.add_options(parser)
    parser.set_defaults(prompts="128,512", dense="bfloat16")
    options = parser.parse_args()
    depths = [int(depth) for depth in options.depths.split(",")]
    if len(set(depths)) != 2:
        parser.error(f"--depths is {options.depths}; give two different numbers of layers, as 2,4")
    if options.child:
        be_transformers(options, depths)
        return
    runs_of_ours: list[dict[str, Any]] = []

    def measure_ours() -> tuple[Figures, float]:
        document, ended = our_engine.measure(options, "--streams", "1", "--long-context", "0")
        runs_of_ours.append(document)
        return our_engine.figures(document), ended.peak_gb

    peer = Side(f"transformers, from {options.depths} layers", lambda: measure_transformers(options))
    ours = Side("gptoss-ray", measure_ours)
    alternate(peer, ours, options.rounds)
    report(peer, ours, {"is_extrapolated": True, "gptoss-ray runs": runs_of_ours}, options.json)
    print(our_engine.ceilings_line(runs_of_ours))
    num_layers = runs_of_ours[0]["num_layers"]
    print(f"transformers' figures are extrapolated from {options.depths} layers to {num_layers}; its peak of")
    print("memory is that of the few layers.")


if __name__ == "__main__":
    main()
