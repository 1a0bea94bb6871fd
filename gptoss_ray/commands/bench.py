"""`gptoss-ray bench ...`: the measurements that stay with the project."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Annotated

import httpx
import typer
from rich.console import Console
from rich.table import Table

from gptoss_ray.commands import bench_ingress, bench_overload, bench_routing, bench_speed
from gptoss_ray.config import ParallelConfig
from gptoss_ray.http_client import bearer, first_model

_PARALLEL = ParallelConfig()

bench_app = typer.Typer(help="Measure kernels, an engine, or a running server.", no_args_is_help=True)
bench_app.command()(bench_speed.kernels)
bench_app.command()(bench_speed.engine)
bench_app.command("ep-throughput")(bench_speed.ep_throughput)
bench_app.command()(bench_ingress.ingress)
bench_app.command()(bench_overload.overload)
bench_app.command()(bench_routing.routing)

Url = Annotated[str, typer.Option(help="HTTP address of the server.")]
ApiKey = Annotated[str, typer.Option(envvar="GPTOSS_RAY_API_KEY", help="Key of the server.")]
JsonFile = Annotated[Path | None, typer.Option("--json", help="Write the figures here too.")]
DEFAULT_URL = "http://127.0.0.1:8000"


@bench_app.command()
def serving(
    url: Url = DEFAULT_URL,
    grpc_address: Annotated[str, typer.Option("--grpc", help="gRPC address.")] = "127.0.0.1:9000",
    clients: Annotated[str, typer.Option(help="Loads to measure, comma-separated.")] = "1,8,32,64",
    requests_per_client: Annotated[int, typer.Option(help="Requests each client sends.", min=1)] = 4,
    api_key: ApiKey = "",
    json_file: JsonFile = None,
) -> None:
    """Time to first token and tokens per second through HTTP and gRPC."""
    from gptoss_ray.bench.serving import LoadResult, measure  # noqa: PLC0415  (grpc takes a while)

    console = Console()
    with httpx.Client(base_url=url, headers=bearer(api_key)) as http:
        model = first_model(http)

    def show(result: LoadResult) -> None:
        console.print(f"  {result.protocol} x {result.concurrency}: {result.row()['tokens_per_s']} tokens/s")

    results = asyncio.run(
        measure(
            url,
            grpc_address,
            model,
            api_key=api_key,
            concurrencies=tuple(int(part) for part in clients.split(",")),
            requests_per_client=requests_per_client,
            on_result=show,
        )
    )
    _report(console, f"{model} at {url}", [result.row() for result in results], json_file)


@bench_app.command()
def forward(
    checkpoint: Annotated[str, typer.Argument(help="Folder, hub id, or `demo`.")] = "demo",
    threads: Annotated[int, typer.Option(help="CPU threads.", min=1)] = 1,
    json_file: JsonFile = None,
) -> None:
    """Decode steps and a prefill of the network alone, without engine or server."""
    import torch  # noqa: PLC0415  (takes seconds to import)

    from gptoss_ray.bench.forward import measure  # noqa: PLC0415

    torch.set_num_threads(threads)
    title = f"{checkpoint}, {threads} thread(s)"
    _report(Console(), title, [result.row() for result in measure(checkpoint)], json_file)


@bench_app.command("demo-quality")
def demo_quality(
    url: Url = DEFAULT_URL,
    questions: Annotated[int, typer.Option(help="Questions per skill.", min=1)] = 200,
    concurrency: Annotated[int, typer.Option(help="Questions asked at once.", min=1)] = 32,
    api_key: ApiKey = "",
    json_file: JsonFile = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here as Markdown.")] = None,
) -> None:
    """Accuracy of the demo model on questions it was never trained on, per skill."""
    from gptoss_ray.bench.demo_quality import markdown_table, run  # noqa: PLC0415  (imports the training data)

    results = run(url, api_key, questions_per_skill=questions, concurrency=concurrency, json_path=json_file)
    if markdown is not None:
        markdown.write_text(markdown_table(results) + "\n", encoding="utf-8")


@bench_app.command()
def collectives(
    ranks: Annotated[int, typer.Option(help="Processes that take part.", min=2)] = 2,
    repeats: Annotated[int, typer.Option(help="Calls that are timed.", min=2)] = 2000,
    json_file: JsonFile = None,
) -> None:
    """One small collective between ranks of this machine: shared memory beside gloo."""
    from gptoss_ray.bench.collectives import run  # noqa: PLC0415  (torch takes seconds to import)

    rows = [result.row() for result in run(ranks, repeats=repeats)]
    _report(Console(), f"{ranks} ranks on one host", rows, json_file)


@bench_app.command()
def ep(
    ranks: Annotated[int, typer.Option(help="Processes that share the experts.", min=2)] = 2,
    prompt_tokens: Annotated[int, typer.Option(help="Tokens of the long prompt.", min=16)] = 16_384,
    prompt_tokens_per_step: Annotated[
        int, typer.Option(help="Most that a step reads.", min=16)
    ] = _PARALLEL.max_prefill_tokens_per_step,
    json_file: JsonFile = None,
) -> None:
    """A stream on one rank while another reads a long prompt, and the CPU time of an idle group."""
    from gptoss_ray.bench.ep import run  # noqa: PLC0415  (torch takes seconds to import)

    parallel = ParallelConfig(max_prefill_tokens_per_step=prompt_tokens_per_step)
    result = run(ranks, num_prompt_tokens=prompt_tokens, parallel=parallel)
    _report(Console(), f"{ranks} ranks on one host", [result.row()], json_file)


@bench_app.command()
def placement(
    json_file: JsonFile = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the table here as Markdown.")] = None,
    plot_file: Annotated[Path | None, typer.Option("--plot", help="Draw the rank loads here (PNG).")] = None,
) -> None:
    """How evenly spare slots for copies of hot experts spread skewed loads over the ranks."""
    from gptoss_ray.bench.placement import markdown_table, plot, run  # noqa: PLC0415

    results = list(run())
    _report(Console(), "largest over mean rank load", [result.row() for result in results], json_file)
    if markdown is not None:
        markdown.write_text(markdown_table(results) + "\n", encoding="utf-8")
    if plot_file is not None:
        plot(results, plot_file)


def _report(
    console: Console, title: str, rows: list[dict[str, float | int | str]], json_file: Path | None
) -> None:
    """Print rows of equal keys as a table, and write them as JSON if asked to."""
    table = Table(*[str(name).replace("_", " ") for name in rows[0]], title=title)
    for row in rows:
        table.add_row(*[str(value) for value in row.values()])
    console.print(table)
    if json_file is not None:
        json_file.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
