"""`gptoss-ray bench speculation`: what drafts gain, on random weights and on the demo model's answers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gptoss_ray.commands.bench_speed import (
    Activations,
    Dense,
    Layers,
    Packed,
    Shape,
    Threads,
    checkpoint_folder,
    num_cpus,
    numbers,
)
from gptoss_ray.commands.bench_tables import JsonFile, note, print_tables, write_json
from gptoss_ray.config import EngineConfig
from gptoss_ray.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gptoss_ray.bench.speculation import Workload


def speculation(
    shape: Shape = "gpt-oss-20b",
    layers: Layers = None,
    dense: Dense = "bfloat16",
    activations: Activations = "bfloat16",
    threads: Threads = None,
    packed: Packed = None,
    demo: Annotated[
        bool, typer.Option("--demo", help="Questions to the demo model instead of random weights.")
    ] = False,
    streams: Annotated[str, typer.Option(help="Streams that decode together.")] = "1,4,16",
    likelihoods: Annotated[
        str, typer.Option(help="How often a drafted token is right, in percent; of random weights.")
    ] = "50,70,90",
    tokens: Annotated[int, typer.Option(help="Output of each stream; of random weights.", min=2)] = 48,
    questions: Annotated[int, typer.Option(help="Of each skill; to the demo model.", min=1)] = 4,
    rounds: Annotated[int, typer.Option(help="Repeats of everything.", min=1)] = 3,
    json_file: JsonFile = None,
) -> None:
    """The same requests without drafts, with those that should pay (auto), and with all, in turns."""
    from gptoss_ray.bench.speculation import random_workloads, run  # noqa: PLC0415  (torch takes seconds)
    from gptoss_ray.bench.synthetic_folder import default_cache  # noqa: PLC0415
    from gptoss_ray.checkpoint.hub import DEMO, resolve_folder  # noqa: PLC0415
    from gptoss_ray.config import ServedModelConfig  # noqa: PLC0415
    from gptoss_ray.ranks.engine_loader import load_engine  # noqa: PLC0415

    if demo and layers is not None:
        raise ConfigError("the demo model has its own number of layers; leave out --layers.", param="layers")
    folder = resolve_folder(DEMO) if demo else checkpoint_folder(None, shape, layers)
    engine = EngineConfig(
        dense_weights=dense,
        activations=activations,
        num_threads=threads or num_cpus(),
        packed_weights=None if demo else str(packed or default_cache() / "packed"),
    )
    config = ServedModelConfig(name="bench", checkpoint=str(folder), engine=engine)
    loaded = load_engine(config, 0, None, (), lambda _: None)
    transformer = loaded.transformer
    counts = numbers("streams", streams)
    if demo:
        workloads = _questions(folder, counts, questions)
    else:
        rates = [percent / 100 for percent in numbers("likelihoods", likelihoods)]
        workloads = random_workloads(transformer.config.vocab_size, counts, rates, tokens)
    rows = run(transformer, engine, workloads, rounds, note)
    name = "demo model" if demo else f"{shape}, {dense} dense weights, {activations} activations"
    print_tables({name: rows})
    write_json(json_file, {"model": name, "layers": layers, "results": rows})


def _questions(folder: Path, streams: Sequence[int], per_skill: int) -> list[Workload]:
    """Return the demo model's held-out questions, for each number of streams."""
    from gptoss_ray.bench.demo_quality import MAX_TOKENS, held_out_chats  # noqa: PLC0415
    from gptoss_ray.bench.speculation import Workload  # noqa: PLC0415
    from gptoss_ray.demo_training.conversations import prompt_tokens  # noqa: PLC0415
    from gptoss_ray.generation import GenerationRequest, SamplingParams  # noqa: PLC0415
    from gptoss_ray.harmony.encoding import HarmonyEncoding  # noqa: PLC0415

    encoding = HarmonyEncoding.load(folder)
    params = SamplingParams(
        temperature=0.0, max_tokens=MAX_TOKENS, stop_token_ids=tuple(encoding.stop_token_ids)
    )
    requests = tuple(
        GenerationRequest(f"r{number}", tuple(prompt_tokens(encoding, chat)), params)
        for number, chat in enumerate(held_out_chats(per_skill))
    )
    return [Workload(f"{len(requests)} questions", requests, num_streams) for num_streams in streams]
