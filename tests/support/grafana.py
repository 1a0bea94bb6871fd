"""The queries of cluster/grafana/gptoss.json as Grafana sends them, and what they are asked of."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from gptoss_ray.errors import UnavailableError
from gptoss_ray.serving.metrics import IngressMetrics
from tests.support.group_stats import healed_group
from tests.support.ingresses import ANSWER, MODEL, http_client, make_ingress, tokens
from tests.support.scripted_source import ScriptedSource
from tests.support.served_app import ROOT

FILE = ROOT / "cluster/grafana/gptoss.json"
VARIABLES = {"$__rate_interval": "5m", "$model": ".*", "$replica": ".*"}


@dataclass(frozen=True)
class Query:
    """One query and the panel that asks it."""

    panel: str
    expression: str


def dashboard() -> dict[str, Any]:
    """Return the file as it is."""
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def panels() -> list[dict[str, Any]]:
    """Return all that shows something."""
    return [panel for panel in dashboard()["panels"] if panel["type"] != "row"]


def queries() -> list[Query]:
    """Return every query, with values in the place of Grafana's variables."""
    return [
        Query(panel["title"], _filled(target["expr"])) for panel in panels() for target in panel["targets"]
    ]


def _filled(expression: str) -> str:
    for name, value in VARIABLES.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


async def exported_samples() -> list[Sample]:
    """Return what an ingress exports that has seen an answer, a repair and a failure."""
    steps = {"fine": tokens(ANSWER), "odd": tokens("Hello<|return|>"), "gone": [UnavailableError("gone.")]}
    played = iter(steps.values())
    scripted = ScriptedSource(lambda request: next(played), group_stats=[healed_group()])
    metrics = IngressMetrics()
    for note in metrics.phases(MODEL):  # as the way to a real rank does
        note(0.1)
    async with http_client(make_ingress(scripted, metrics=metrics)) as client:
        for _ in steps:
            body = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
            await client.post("/v1/chat/completions", json=body)
        text = (await client.get("/metrics")).text
    return [sample for family in text_string_to_metric_families(text) for sample in family.samples]


def metric_names() -> set[str]:
    """Return the names of all metrics that the queries select."""
    return {name for query in queries() for name in re.findall(r"\bgptoss_\w+", query.expression)}
