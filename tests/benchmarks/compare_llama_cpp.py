#!/usr/bin/env python3
"""Compare gptoss-ray with llama.cpp on this machine: prompts and decode steps, in alternation.

Both sides have random weights of the same shape and read the same number of tokens. llama.cpp is measured by
its own llama-bench (prompts, one stream) and llama-batched-bench (several streams), gptoss-ray by
`gptoss-ray bench engine`. What is not alike is to our disadvantage: our steps choose a token from the logits,
and our single stream has 128 tokens behind it rather than none. See README.md beside this file.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import our_engine
from alternation import Figures, Side, alternate, report, run

_CONTEXT = 128


def parse_llama_bench(output: str) -> Figures:
    """Return the figures of `llama-bench -o json`."""
    figures: Figures = {}
    for test in json.loads(output):
        if test["n_prompt"] > 0:
            name = f"prompt of {test['n_prompt']}"
        else:
            name = our_engine.decode_name(1, test["n_depth"])
        figures[name] = test["avg_ts"]
    return figures


def parse_batched_bench(output: str) -> Figures:
    """Return the figures of `llama-batched-bench --output-format jsonl`, which come among its messages."""
    lines = (line[line.index("{") :] for line in output.splitlines() if '"speed_tg"' in line)
    return {our_engine.decode_name(test["pl"]): test["speed_tg"] for test in map(json.loads, lines)}


def measure_llama_cpp(options: argparse.Namespace) -> tuple[Figures, float]:
    """Run both of llama.cpp's benchmarks once."""
    threads, tokens = str(options.threads), str(options.generate)
    common = ["-m", str(options.gguf), "-t", threads]
    singles = [["-p", options.prompts or "0"]]
    if options.long_context:
        singles.append(["-p", "0", "-d", str(options.long_context)])
    figures: Figures = {}
    peak_gb = 0.0
    for arguments in singles:
        more = [*arguments, "-n", tokens, "-r", "1", "-o", "json"]
        single = run([str(options.llama_bin / "llama-bench"), *common, *more])
        figures |= parse_llama_bench(single.output)
        peak_gb = max(peak_gb, single.peak_gb)
    streams = [number for number in options.streams.split(",") if number != "1"]
    if streams:
        room = max(map(int, streams)) * (_CONTEXT + options.generate) + 512
        arguments = ["-tb", threads, "-c", str(room), "-b", "2048", "-ub", "512", "-npp", str(_CONTEXT)]
        arguments += ["-ntg", tokens, "-npl", ",".join(streams), "-pps", "--output-format", "jsonl"]
        batched = run([str(options.llama_bin / "llama-batched-bench"), *common, *arguments])
        figures |= parse_batched_bench(f"{batched.output}\n{batched.messages}")
        peak_gb = max(peak_gb, batched.peak_gb)
    return figures, peak_gb


def main() -> None:
    """Read the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--llama-bin", type=Path, required=True, help="folder of llama.cpp's programs")
    parser.add_argument("--gguf", type=Path, required=True, help="model of the same shape; see make_gguf.py")
    parser.add_argument("--streams", default="1,4,16", help="streams that decode together")
    parser.add_argument("--generate", type=int, default=64, help="tokens that each stream decodes")
    parser.add_argument(
        "--long-context", type=int, default=0, help="one stream decodes behind so many tokens too; 0: not"
    )
    our_engine.add_options(parser)
    options = parser.parse_args()
    runs_of_ours: list[dict[str, Any]] = []

    def measure_ours() -> tuple[Figures, float]:
        more = ["--streams", options.streams, "--context", str(_CONTEXT)]
        more += ["--long-context", str(options.long_context), "--steps", str(options.generate)]
        document, ended = our_engine.measure(options, *more)
        runs_of_ours.append(document)
        return our_engine.figures(document, options.long_context), ended.peak_gb

    peer = Side("llama.cpp", lambda: measure_llama_cpp(options))
    ours = Side("gptoss-ray", measure_ours)
    alternate(peer, ours, options.rounds)
    report(peer, ours, {"gptoss-ray runs": runs_of_ours}, options.json)
    print(our_engine.ceilings_line(runs_of_ours))


if __name__ == "__main__":
    main()
