"""`gptoss-ray bench routing`: what the choice of a replica is worth on conversations."""

from __future__ import annotations

from typing import Annotated

import typer

from gptoss_ray.commands.bench_tables import JsonFile, note, print_tables, write_json


def routing(
    conversations: Annotated[int, typer.Option(help="All with the same system prompt.", min=1)] = 24,
    turns: Annotated[int, typer.Option(help="Of each conversation.", min=1)] = 6,
    turn_tokens: Annotated[int, typer.Option(help="That a turn adds to its prompt.", min=1)] = 320,
    users: Annotated[int, typer.Option(help="Conversations at once.", min=1)] = 6,
    think_s: Annotated[float, typer.Option(help="Mean time from an answer to the next turn.", min=0)] = 0.5,
    replicas: Annotated[int, typer.Option(help="Of the model, a CPU each.", min=1)] = 2,
    json_file: JsonFile = None,
) -> None:
    """Prefix hit rate and time to first token under our router and under Serve's, on the same conversations.

    Starts servers of its own on loopback, over a small model with random weights.
    """
    from gptoss_ray.bench.multi_turn_trace import MultiTurnTrace  # noqa: PLC0415
    from gptoss_ray.bench.routing import RoutingBench, run  # noqa: PLC0415  (httpx and torch take a while)

    trace = MultiTurnTrace(conversations, turns, turn_tokens=turn_tokens, think_s=think_s)
    report = run(RoutingBench(trace, users, replicas), note)
    print_tables(report.tables())
    write_json(json_file, report.tables())
