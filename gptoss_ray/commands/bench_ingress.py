"""`gptoss-ray bench ingress`: what Serve and the ingress cost, with a scripted engine behind them."""

from __future__ import annotations

from typing import Annotated

import typer

from gptoss_ray.commands.bench_tables import JsonFile, note, print_tables, write_json
from gptoss_ray.errors import ConfigError


def ingress(
    modes: Annotated[
        str, typer.Option(help="Of Serve, of default, haproxy, haproxy-optimized.")
    ] = "default,haproxy",
    streams: Annotated[int, typer.Option(help="Chats that stream at once.", min=1, max=1024)] = 32,
    rate: Annotated[float, typer.Option(help="Tokens/s of a chat where delays are measured.", min=1)] = 20.0,
    seconds: Annotated[float, typer.Option(help="How long each measure takes.", min=0.1)] = 10.0,
    json_file: JsonFile = None,
) -> None:
    """Delay of tokens, most tokens/s and hostile bodies through Serve; starts servers of its own on loopback.

    HTTP and gRPC, from an engine that replays a script: no model is needed, and none is measured.
    """
    from gptoss_ray.bench.ingress import MODES, IngressBench, run  # noqa: PLC0415  (grpc takes a while)

    chosen = tuple(part.strip() for part in modes.split(",") if part.strip())
    if not chosen or not set(chosen) <= set(MODES):
        raise ConfigError(f"--modes is {modes!r}; choose from {', '.join(MODES)}", param="modes")
    report = run(IngressBench(chosen, streams, rate, seconds), note)
    print_tables(report.tables())
    write_json(json_file, report.to_json())
