"""`gptoss-ray bench overload`: goodput, refusals and fairness with more requests than can be answered."""

from __future__ import annotations

from typing import Annotated

import typer

from gptoss_ray.commands.bench_tables import JsonFile, note, print_tables, write_json


def overload(
    factor: Annotated[float, typer.Option(help="Requests, as a multiple of the peak's.", min=1)] = 5.0,
    seats: Annotated[int, typer.Option(help="Requests that the engine works on at once.", min=1)] = 16,
    queued: Annotated[int, typer.Option(help="Requests that may wait.", min=2)] = 32,
    tokens: Annotated[int, typer.Option(help="Tokens of an answer.", min=1)] = 64,
    step_ms: Annotated[float, typer.Option(help="How long the engine takes for a step.", min=1)] = 25.0,
    seconds: Annotated[float, typer.Option(help="How long each phase is measured.", min=0.5)] = 20.0,
    haproxy: Annotated[bool, typer.Option(help="HAProxy in place of Serve's own proxy.")] = False,
    json_file: JsonFile = None,
) -> None:
    """Goodput at the peak and beyond, how fast what is too much is refused, and what two keys get.

    Starts a server of its own on loopback, over an engine that replays a script: no model is needed.
    """
    from gptoss_ray.bench.overload import OverloadBench, run  # noqa: PLC0415  (httpx and torch take a while)

    bench = OverloadBench(seats, queued, tokens, step_ms / 1000, factor, seconds, haproxy)
    report = run(bench, note)
    print_tables(report.tables())
    write_json(json_file, report.to_json())
