"""`gptoss-ray plan`: what a model needs, what a cluster would do with it, and how best to spread it."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from gptoss_ray.checkpoint.hub import DEMO, resolve_folder
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.commands.bench_speed import Dense, KvCacheDtype
from gptoss_ray.config import EngineConfig
from gptoss_ray.errors import ConfigError
from gptoss_ray.kernels.backend import select_backend
from gptoss_ray.planner.advice import Cluster, Formats, Layout, Load, best_layout, compare_layouts
from gptoss_ray.planner.hardware import CPU, NETWORKS, find_accelerator, find_network
from gptoss_ray.planner.memory import gigabytes

_PUBLISHER = "openai/"
_CAVEAT = (
    "Predictions are roofline bounds times a stated efficiency, not measurements; "
    "nothing has run on a GPU yet. See docs/performance-model.md."
)


def plan(
    model: Annotated[str, typer.Argument(help="gpt-oss-20b, gpt-oss-120b, demo, or a checkpoint's folder.")],
    gpu: Annotated[
        str, typer.Option(help="a100, h100, h200, b200, or cpu: this machine, measured.")
    ] = "h100",
    gpus: Annotated[int, typer.Option(help="Devices in all; with cpu, ranks on this machine.", min=1)] = 1,
    gpus_per_node: Annotated[int, typer.Option(help="Devices of a node.", min=1)] = 8,
    network: Annotated[str, typer.Option(help=f"Between nodes: {', '.join(NETWORKS)}.")] = "infiniband",
    streams: Annotated[int, typer.Option(help="Requests at once.", min=1)] = 64,
    context: Annotated[int, typer.Option(help="Tokens of a request, prompt and output.", min=16)] = 8192,
    batched_tokens: Annotated[
        int, typer.Option(help="Token budget of a step (max_num_batched_tokens).", min=16, max=65536)
    ] = 2048,
    kv_cache_dtype: KvCacheDtype = "auto",
    dense: Dense = "bfloat16",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Predict memory and rates of a model on given devices, and advise how to spread it."""
    config = _find_model(model)
    formats = Formats(kv_cache_dtype, dense)
    cluster = _cluster(config, formats, gpu, gpus, gpus_per_node, network)
    load = Load(streams, context, batched_tokens)
    layouts = compare_layouts(config, cluster, load, formats)
    best = best_layout(layouts)
    if as_json:
        typer.echo(json.dumps(_document(model, cluster, load, formats, layouts, best), indent=2))
        return
    console = Console()
    console.print(_rates_table(model, cluster, load, layouts, best))
    if best is not None:
        console.print(_memory_table(best, cluster))
    console.print(_advice(best, layouts, cluster), highlight=False)
    console.print(f"[dim]{_CAVEAT}[/]", highlight=False)


def _find_model(name: str) -> ModelConfig:
    """Return the shape of a published model, of the demo, or of a checkpoint's folder.

    Raises:
        ConfigError: It is none of these; the message names the choices.
    """
    if name == DEMO or Path(name).expanduser().is_dir():
        return ModelConfig.from_folder(resolve_folder(name))
    try:
        return ModelConfig.published(name.removeprefix(_PUBLISHER))
    except ValueError as error:
        raise ConfigError(f"{error}, {DEMO}, or the folder of a checkpoint", param="model") from None


def _cluster(
    model: ModelConfig, formats: Formats, gpu: str, num_devices: int, devices_per_node: int, network: str
) -> Cluster:
    """Describe the devices.

    Raises:
        ConfigError: One of the names is unknown, or this machine's kernels cannot read the formats.
    """
    if gpu.lower() != CPU:
        accelerator = find_accelerator(gpu)
        link = find_network(network, accelerator)
        return Cluster(accelerator, num_devices, devices_per_node, link)
    # Both import torch, which takes seconds.
    from gptoss_ray.model.host_memory import host_memory_bytes  # noqa: PLC0415
    from gptoss_ray.planner.this_machine import measure  # noqa: PLC0415

    is_native = select_backend(EngineConfig(**dataclasses.asdict(formats)), model).is_native
    machine = measure(host_memory_bytes(), num_devices)
    return Cluster(machine, num_devices, num_devices, machine.link, is_cpu=True, is_native=is_native)


def _rates_table(
    model: str, cluster: Cluster, load: Load, layouts: list[Layout], best: Layout | None
) -> Table:
    device = cluster.accelerator
    wires = device.link.name
    if cluster.num_devices > cluster.devices_per_node:
        wires += f", {cluster.network.name} between nodes of {cluster.devices_per_node}"
    table = Table(
        title=f"{escape(model)} on {cluster.num_devices} x {device.name} ({wires}), "
        f"{_count(load.num_streams, 'stream')} of {load.context} tokens"
    )
    for column in (
        *("layout", "weights of a rank", "KV tokens", "streams", "decode tok/s", "tok/s a stream"),
        *("prefill tok/s", "prompt", "all-to-all a token", "exchange"),
    ):
        table.add_column(column, justify="left" if column == "layout" else "right")
    for layout in layouts:
        name = f"[bold]{layout.name}[/] *" if layout is best else layout.name
        table.add_row(name, *_cells(layout))
    return table


def _cells(layout: Layout) -> tuple[str, ...]:
    found = layout.prediction
    if found is None:
        return ("does not fit",)
    travels = layout.num_ranks > 1
    return (
        gigabytes(found.memory.weight_bytes),
        f"{found.kv_tokens:,}",
        str(found.num_streams),
        f"{found.decode_tokens_per_s:,.0f}",
        f"{found.stream_tokens_per_s:,.1f}",
        f"{found.prefill_tokens_per_s:,.0f}",
        f"{found.prompt_s:.2f} s",
        f"{found.exchange_bytes_per_token / 1e6:.2f} MB {found.dispatch_mode}" if travels else "none",
        f"{100 * found.exchange_share:.0f} %",
    )


def _memory_table(layout: Layout, cluster: Cluster) -> Table:
    """Print what a rank of `layout` holds."""
    assert layout.prediction is not None
    table = Table("part", "size", title=f"Memory of a rank ({layout.name})")
    for part, num_bytes in layout.prediction.memory.parts().items():
        table.add_row(part, gigabytes(num_bytes))
    table.add_section()
    table.add_row("all", gigabytes(layout.prediction.memory.total_bytes))
    table.add_row("usable of the device", gigabytes(cluster.accelerator.usable_bytes))
    return table


def _advice(best: Layout | None, layouts: list[Layout], cluster: Cluster) -> str:
    if best is None or best.prediction is None:
        return f"[red]Does not fit.[/] {escape(layouts[-1].problem or '')}"
    advice = f"[green]Best:[/] {best.name}: {best.prediction.decode_tokens_per_s:,.0f} decoded tokens/s"
    replicas = layouts[0]
    if best is replicas:
        return f"{advice}. Nothing travels between devices, and the loss of one stops one replica."
    if replicas.prediction is None:
        return f"{advice}. A single {cluster.accelerator.name} cannot hold the model with its KV cache."
    gain = best.prediction.decode_tokens_per_s / replicas.prediction.decode_tokens_per_s
    reasons = ["each rank reads fewer experts a step"]
    if replicas.prediction.num_streams < best.prediction.num_streams:
        reasons.append(
            f"KV caches hold {_count(best.prediction.num_streams, 'stream')}, "
            f"not {replicas.prediction.num_streams}"
        )
    return f"{advice}, {gain:.2f} times what independent replicas do: {' and '.join(reasons)}."


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _document(
    model: str, cluster: Cluster, load: Load, formats: Formats, layouts: list[Layout], best: Layout | None
) -> dict[str, object]:
    return {
        "model": model,
        "cluster": dataclasses.asdict(cluster),
        "load": dataclasses.asdict(load),
        "formats": dataclasses.asdict(formats),
        "layouts": [{"name": layout.name, **dataclasses.asdict(layout)} for layout in layouts],
        "best": best and best.name,
        "note": _CAVEAT,
    }
