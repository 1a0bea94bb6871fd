"""`gptoss-ray bench kernels | engine`: how fast this machine computes, without a server."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from gptoss_ray.commands.bench_tables import JsonFile, note, print_tables, write_json
from gptoss_ray.commands.byte_progress import byte_progress
from gptoss_ray.config import EngineConfig
from gptoss_ray.errors import ConfigError

if TYPE_CHECKING:
    from gptoss_ray.bench.engine_cases import DecodeCase

Shape = Annotated[
    Literal["gpt-oss-20b", "gpt-oss-120b", "tiny"], typer.Option(help="The shape of the random weights.")
]
Threads = Annotated[int | None, typer.Option(help="Threads that compute; all CPUs if not given.", min=1)]
Layers = Annotated[int | None, typer.Option(help="Number of layers, if not the model's own.", min=1)]
Dense = Annotated[Literal["bfloat16", "int8"], typer.Option(help="Weights of attention and unembedding.")]
KvCacheDtype = Annotated[
    Literal["auto", "fp8"], typer.Option(help="As engine.kv_cache_dtype of a configuration.")
]
Activations = Annotated[Literal["bfloat16", "int8"], typer.Option(help="What matrices multiply.")]
Checkpoint = Annotated[
    Path | None, typer.Option(help="Folder of a checkpoint; one of the shape is made if not given.")
]
Packed = Annotated[
    Path | None, typer.Option(help="Folder that keeps packed weights; one in the cache if not given.")
]


def kernels(
    shape: Shape = "gpt-oss-20b",
    threads: Threads = None,
    seconds: Annotated[float, typer.Option(help="Each case is repeated for at least so long.", min=0)] = 0.5,
    json_file: JsonFile = None,
) -> None:
    """Each native kernel at the shapes of a model, against what the machine can read and multiply."""
    import torch  # noqa: PLC0415  (takes seconds to import)

    from gptoss_ray.bench.kernels import KernelBench, run  # noqa: PLC0415
    from gptoss_ray.bench.machine import machine_row  # noqa: PLC0415
    from gptoss_ray.bench.synthetic_folder import shape_of  # noqa: PLC0415

    torch.set_num_threads(1)  # torch's threads would compete with the kernels' own
    num_threads = threads or num_cpus()
    bench = KernelBench.tiny() if shape == "tiny" else KernelBench(min_s=seconds)
    report = run(shape_of(shape), num_threads, bench, note)
    title = f"{report.kernels}, {num_threads} thread(s), {shape}"
    print_tables({"ceilings": report.ceiling_rows(), title: report.rows()})
    write_json(
        json_file,
        {
            "shape": shape,
            "machine": machine_row(),
            "kernels": report.kernels,
            "num_threads": num_threads,
            "ceilings": report.ceiling_rows(),
            "results": report.rows(),
        },
    )


def engine(
    shape: Shape = "gpt-oss-20b",
    layers: Layers = None,
    dense: Dense = "bfloat16",
    activations: Activations = "bfloat16",
    threads: Threads = None,
    kernels: Annotated[
        Literal["auto", "native", "torch"], typer.Option(help="As engine.kernels of a configuration.")
    ] = "auto",
    checkpoint: Checkpoint = None,
    packed: Packed = None,
    prompts: Annotated[str, typer.Option(help="Prompts to read, in tokens.")] = "128,512,2048",
    streams: Annotated[str, typer.Option(help="Streams that decode together.")] = "1,4,16",
    context: Annotated[int, typer.Option(help="Tokens behind each stream.", min=1)] = 128,
    long_context: Annotated[
        int, typer.Option(help="One stream is measured behind so many tokens too; 0: not.", min=0)
    ] = 8192,
    rounds: Annotated[int, typer.Option(help="Repeats of everything.", min=1)] = 3,
    steps: Annotated[int, typer.Option(help="Decode steps of a case in a round.", min=1)] = 32,
    batched_tokens: Annotated[int, typer.Option(help="Token budget of a step.", min=16)] = 512,
    starts: Annotated[
        bool, typer.Option(help="Also start in processes of their own, with files from disk.")
    ] = True,
    pin: Annotated[bool, typer.Option(help="Keep each native thread on a CPU of its own.")] = False,
    json_file: JsonFile = None,
) -> None:
    """One engine in this process: starts, memory, prompts, decode steps, against what the machine can read.

    Contexts of decode steps are noise that is written to the KV cache directly, not read as prompts.
    """
    from gptoss_ray.bench.engine import EngineBench, run  # noqa: PLC0415  (torch takes seconds to import)
    from gptoss_ray.bench.synthetic_folder import default_cache  # noqa: PLC0415

    checkpoint = checkpoint_folder(checkpoint, shape, layers)
    bench = EngineBench(
        checkpoint=checkpoint,
        engine=EngineConfig(
            kernels=kernels,
            dense_weights=dense,
            activations=activations,
            num_threads=threads or num_cpus(),
            pin_threads=pin,
            max_num_batched_tokens=batched_tokens,
            packed_weights=str(packed or default_cache() / "packed"),
        ),
        prefill_tokens=numbers("prompts", prompts),
        decode=tuple(_decode_cases(numbers("streams", streams), context, long_context)),
        num_rounds=rounds,
        num_steps=steps,
        with_starts=starts,
    )
    report = run(bench, note)
    print_tables(report.tables())
    write_json(json_file, {"shape": shape, "dense": dense, "activations": activations, **report.to_json()})


def ep_throughput(
    shape: Shape = "gpt-oss-20b",
    layers: Layers = None,
    dense: Dense = "bfloat16",
    activations: Activations = "bfloat16",
    threads: Threads = None,
    ranks: Annotated[int, typer.Option(help="Processes that share the experts.", min=2)] = 2,
    streams: Annotated[int, typer.Option(help="Streams that decode together, over all ranks.", min=1)] = 16,
    context: Annotated[int, typer.Option(help="Tokens behind each stream.", min=1)] = 128,
    checkpoint: Checkpoint = None,
    packed: Packed = None,
    rounds: Annotated[int, typer.Option(help="Repeats.", min=1)] = 3,
    steps: Annotated[int, typer.Option(help="Decode steps of a round.", min=2)] = 24,
    json_file: JsonFile = None,
) -> None:
    """One rank with all threads against ranks that share the experts and the threads, in turns."""
    from gptoss_ray.bench.ep_throughput import EPThroughputBench, run  # noqa: PLC0415
    from gptoss_ray.bench.synthetic_folder import default_cache  # noqa: PLC0415

    engine = EngineConfig(
        dense_weights=dense,
        activations=activations,
        num_threads=threads or num_cpus(),
        packed_weights=str(packed or default_cache() / "packed"),
    )
    folder = checkpoint_folder(checkpoint, shape, layers)
    bench = EPThroughputBench(folder, engine, ranks, streams, context, rounds, steps)
    arrangements = run(bench, note)
    rows = [arrangement.row(arrangements[0]) for arrangement in arrangements]
    print_tables({f"{streams} streams of {shape}, {dense} dense weights, {activations} activations": rows})
    formats = {"dense": dense, "activations": activations}
    write_json(json_file, {"shape": shape, **formats, "context": context, "results": rows})


def checkpoint_folder(given: Path | None, shape: str, layers: int | None) -> Path:
    """Return the folder that was given, or that of a random checkpoint; ConfigError where both are asked."""
    from gptoss_ray.bench.synthetic_folder import synthetic_folder  # noqa: PLC0415

    if given is None:
        with byte_progress(f"writing a random {shape}") as progress:
            return synthetic_folder(shape, layers, progress=progress)
    if layers is not None:
        raise ConfigError(
            "a given checkpoint has its own number of layers; leave out --layers.", param="layers"
        )
    return given


def _decode_cases(streams: Sequence[int], context: int, long_context: int) -> Iterable[DecodeCase]:
    from gptoss_ray.bench.engine_cases import DecodeCase  # noqa: PLC0415

    yield from (DecodeCase(num_streams, context) for num_streams in streams)
    if long_context:
        yield DecodeCase(1, long_context)


def numbers(option: str, text: str) -> tuple[int, ...]:
    """Read numbers above 0 between commas; an empty text has none."""
    try:
        found = tuple(int(part) for part in text.split(",") if part.strip())
    except ValueError:
        found = (0,)
    if any(number < 1 for number in found):
        raise ConfigError(
            f"--{option} is {text!r}; give numbers above 0 between commas, as 1,4,16", param=option
        )
    return found


def num_cpus() -> int:
    """Return how many CPUs this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
