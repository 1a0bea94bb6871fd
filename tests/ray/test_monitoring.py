"""What a server of two ranks and two ingress replicas tells of itself, whichever ingress is asked."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.grafana import FILE, metric_names
from tests.support.served_app import ServedApp, serve_app, write_config

NUM_REQUESTS, NUM_TOKENS = 6, 8
Series = dict[tuple[str, frozenset[tuple[str, str]]], float]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[ServedApp]:
    path = tmp_path_factory.mktemp("seen") / "serve.yaml"
    write_config(path, tiny_checkpoint, num_ranks=2, num_ingresses=2)
    with serve_app(path) as app:
        yield app


@pytest.fixture(scope="module")
def http(two_ranks: ServedApp) -> Iterator[httpx.Client]:
    """Requests that were answered by either ingress, and a client for more."""
    # A connection for each request, so that Serve's proxy picks an ingress for each.
    limits = httpx.Limits(max_keepalive_connections=0)
    app = two_ranks
    with httpx.Client(base_url=app.base_url, headers=app.headers, timeout=120, limits=limits) as client:
        for _ in range(NUM_REQUESTS):
            body = {"model": "tiny", "prompt": "a b c", "max_tokens": NUM_TOKENS, "ignore_eos": True}
            client.post("/v1/completions", json=body).raise_for_status()
        yield client


def scrape(http: httpx.Client) -> tuple[Series, set[str]]:
    text = http.get("/metrics").raise_for_status().text
    families = list(text_string_to_metric_families(text))
    samples = [sample for family in families for sample in family.samples]
    return {(s.name, frozenset(s.labels.items())): s.value for s in samples}, {f.name for f in families}


def values(series: Series, name: str) -> dict[str, float]:
    """Return the values of a metric by the label that it has beside model and replica."""
    return {
        next((value for key, value in labels if key not in ("model", "replica")), ""): value
        for (found, labels), value in series.items()
        if found == name
    }


def test_any_ingress_tells_of_all(http):
    for _ in range(6):
        series, _ = scrape(http)
        generated = values(series, "gptoss_generation_tokens_total")
        assert sum(generated.values()) == NUM_REQUESTS * NUM_TOKENS
        assert sum(values(series, "gptoss_queue_time_seconds_count").values()) == NUM_REQUESTS
        assert sum(values(series, "gptoss_prefill_time_seconds_count").values()) == NUM_REQUESTS
    ingresses = {label for (_, labels), _ in series.items() for key, label in labels if key == "ingress"}
    assert len(ingresses) == 2


def test_both_ranks_and_the_experts_of_both_are_told(http):
    series, _ = scrape(http)
    assert values(series, "gptoss_group_epoch") == {"": 1}
    assert values(series, "gptoss_group_members") == {"": 2}
    assert values(series, "gptoss_group_serving") == {"": 1}
    for name in ("rank_steps_total", "rank_all_to_all_seconds_total", "rank_expert_rows_total"):
        found = values(series, f"gptoss_{name}")
        assert found.keys() == {"0", "1"}
        assert all(found.values()), name
    rows = sum(values(series, "gptoss_rank_expert_rows_total").values())
    chosen = sum(values(series, "gptoss_expert_tokens_total").values())
    assert rows == chosen, "every choice of an expert is a row that some rank has worked on"
    steps = values(series, "gptoss_rank_step_seconds_total")
    exchanging = values(series, "gptoss_rank_all_to_all_seconds_total")
    assert all(exchanging[rank] < steps[rank] for rank in steps)


def test_the_grafana_dashboard_asks_for_nothing_that_is_not_exported(http):
    _, families = scrape(http)
    assert FILE.is_file()
    exported = {name for family in families for name in (family, f"{family}_total", f"{family}_bucket")}
    exported |= {f"{family}_{part}" for family in families for part in ("sum", "count")}
    assert metric_names() <= exported


def test_the_dashboard_is_fed_with_ranks_and_experts(http):
    (model,) = http.get("/dashboard/state").raise_for_status().json()["models"]
    (replica,) = model["replicas"]
    assert model["name"] == "tiny"
    assert model["choices"] == NUM_REQUESTS
    assert (replica["stage"], replica["epoch"], replica["members"]) == ("serving", 1, ["0", "1"])
    assert all(rank["host"] and rank["load"]["steps"] for rank in replica["ranks"])
    layers = {sum(layer) for layer in replica["expert_load"]}
    assert len(layers) == 1
    assert layers != {0}
    assert [event["kind"] for event in replica["events"]] == ["epoch_granted"]


def test_the_page_is_served(http):
    assert "gptoss_ray dashboard" in http.get("/dashboard").raise_for_status().text
