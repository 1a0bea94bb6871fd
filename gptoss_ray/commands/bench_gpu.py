"""`gptoss-ray bench gpu`: one engine on one card, or what its steps cost on paper."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from gptoss_ray.commands.bench_speed import Dense, KvCacheDtype, numbers
from gptoss_ray.commands.bench_tables import JsonFile, note, print_tables, write_json
from gptoss_ray.errors import GptossError

Shape = Annotated[
    Literal["gpt-oss-20b", "gpt-oss-120b", "tiny"], typer.Option(help="The shape of the random weights.")
]
DenseMatmuls = Annotated[
    Literal["batch_invariant", "cublas"],
    typer.Option(help="As engine.dense_matmuls of a configuration: the default, or the faster mode."),
]
_PeerExperts = Literal["bfloat16", "mxfp4"]


def gpu(
    shape: Shape = "gpt-oss-20b",
    layers: Annotated[int | None, typer.Option(help="Layers, if not those of the shape.", min=1)] = None,
    streams: Annotated[str, typer.Option(help="Streams that decode together.")] = "1,8,64,256",
    contexts: Annotated[str, typer.Option(help="Tokens behind each stream.")] = "1024,8192,32768",
    prompts: Annotated[str, typer.Option(help="Prompts to read, in tokens.")] = "2048,16384",
    rounds: Annotated[int, typer.Option(help="Repeats of everything.", min=1)] = 3,
    steps: Annotated[int, typer.Option(help="Decode steps of a case in a round.", min=1)] = 64,
    graphs: Annotated[bool, typer.Option(help="Replay decoding steps from graphs.")] = True,
    kv_cache_dtype: KvCacheDtype = "auto",
    dense: Dense = "bfloat16",
    dense_matmuls: DenseMatmuls = "batch_invariant",
    accounting: Annotated[
        bool, typer.Option("--accounting", help="Only print what steps cost on paper; needs no card.")
    ] = False,
    host: Annotated[
        bool, typer.Option("--host", help="Also measure the host's part of steps; needs no card.")
    ] = False,
    peer: Annotated[
        _PeerExperts | None,
        typer.Option(
            "--transformers",
            help="Also measure transformers on the card, in turn, with dequantised experts or with the MXFP4 "
            "kernels of its hub (needs the package kernels).",
        ),
    ] = None,
    card: Annotated[str, typer.Option("--gpu", help="Whose data sheet the paper goes by.")] = "h200",
    json_file: JsonFile = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw tokens a second here.")] = None,
) -> None:
    """One engine on one CUDA card: ceilings, parts of steps, decode steps and prompts, as fractions of these.

    No release has run on a GPU yet; --accounting prints predictions.
    """
    from gptoss_ray.bench.gpu_cases import GpuBench, paper_steps, paper_tables  # noqa: PLC0415  (torch)
    from gptoss_ray.bench.gpu_plot import plot  # noqa: PLC0415
    from gptoss_ray.bench.synthetic_folder import shape_of  # noqa: PLC0415
    from gptoss_ray.bench.transformers_comparison import ComparedStep  # noqa: PLC0415
    from gptoss_ray.bench.transformers_memory import plan_comparison  # noqa: PLC0415
    from gptoss_ray.planner.gpu_steps import Ceilings  # noqa: PLC0415
    from gptoss_ray.planner.hardware import find_accelerator  # noqa: PLC0415

    bench = GpuBench(
        shape if layers is None else f"{shape}, {layers} layers",
        shape_of(shape, layers),
        streams=numbers("streams", streams),
        contexts=numbers("contexts", contexts),
        prompts=numbers("prompts", prompts),
        num_rounds=rounds,
        num_steps=steps,
        records_graphs=graphs,
        kv_cache_dtype=kv_cache_dtype,
        dense_weights=dense,
        dense_matmuls=dense_matmuls,
    )
    accelerator = find_accelerator(card)
    compared: tuple[ComparedStep, ...] = ()
    failure = ""
    if accounting:
        ceilings = Ceilings(accelerator.memory_bytes_per_s, accelerator.flops)
        tables, ran = paper_tables(bench, ceilings, accelerator.usable_bytes), paper_steps(bench)
        title = f"{bench.title} on one {accelerator.name}"
        if peer:
            tables["a comparison with transformers, on paper"] = [
                plan_comparison(bench, peer, accelerator.usable_bytes).row()
            ]
    else:
        from gptoss_ray.bench.gpu import all_tables, run  # noqa: PLC0415

        report = run(bench, note, peer=peer)
        ceilings, ran = report.ceilings, list(report.steps)
        tables = all_tables(report, accelerator.usable_bytes)
        title = f"{bench.title} on one {report.card['card']}"
        compared = report.comparison.steps if report.comparison else ()
        failure = report.failure
    if host:
        from gptoss_ray.bench.engine_cases import DecodeCase  # noqa: PLC0415
        from gptoss_ray.bench.host_steps import host_row  # noqa: PLC0415

        cases = [DecodeCase(number, min(bench.contexts, default=1024)) for number in bench.streams]
        tables["the host's part of a step, here"] = [host_row(case, bench.num_steps) for case in cases]
    print_tables(tables)
    document: dict[str, object] = {
        "shape": bench.shape,
        "kv_cache_dtype": kv_cache_dtype,
        "dense": dense,
        "dense_matmuls": dense_matmuls,
        "has_run": not accounting,
        "tables": tables,
    }
    if compared:
        document["transformers"] = [step.document() for step in compared]
    write_json(json_file, document)
    if plot_file is not None:
        plot(title, ran, ceilings, plot_file, compared=compared)
    if failure:
        raise GptossError(f"The comparison with transformers failed; our own figures are above. {failure}")
