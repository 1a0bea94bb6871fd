"""The Grafana dashboard asks only for what is exported; promql-parser reads its queries."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest
import pytest_asyncio

from tests.support.grafana import Query, dashboard, exported_samples, panels, queries

QUERIES = queries()


def children(node: Any) -> Iterator[Any]:
    for name in ("lhs", "rhs", "expr", "vector_selector"):
        if (child := getattr(node, name, None)) is not None:
            yield child
    yield from getattr(node, "args", ())


def walk(node: Any) -> Iterator[Any]:
    yield node
    for child in children(node):
        yield from walk(child)


def selectors(node: Any) -> list[Any]:
    return [part for part in walk(node) if isinstance(part, promql.VectorSelector)]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def labels() -> dict[str, set[str]]:
    """Labels of everything that is exported, by name."""
    found: dict[str, set[str]] = defaultdict(set)
    for sample in await exported_samples():
        found[sample.name] |= set(sample.labels)
    return found


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.panel)
def test_a_query_selects_what_is_exported_by_labels_that_it_has(query: Query, labels):
    found = selectors(promql.parse(query.expression))
    assert found
    for selector in found:
        assert selector.name in labels, query.panel
        matched = {matcher.name for matcher in selector.matchers.matchers}
        assert matched <= labels[selector.name], selector.name


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.panel)
def test_a_query_groups_by_labels_that_are_there(query: Query, labels):
    for node in walk(promql.parse(query.expression)):
        if isinstance(node, promql.AggregateExpr) and node.modifier is not None:
            (metric,) = {selector.name for selector in selectors(node)}
            assert set(node.modifier.labels) <= labels[metric]


@pytest.mark.parametrize("query", QUERIES, ids=lambda query: query.panel)
def test_counters_are_only_seen_as_rates(query: Query):
    text = query.expression
    for selector in selectors(promql.parse(text)):
        if selector.name.endswith(("_total", "_bucket", "_sum", "_count")):
            assert f"rate({selector.name}" in text or f"increase({selector.name}" in text


def test_it_can_be_imported_anywhere():
    board = dashboard()
    variables = {variable["name"]: variable for variable in board["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource"
    sources = [*(panel["datasource"] for panel in panels()), *variables_with_source(variables)]
    targets = [target["datasource"] for panel in panels() for target in panel["targets"]]
    assert {source["uid"] for source in sources + targets} == {"${datasource}"}
    assert "id" not in board


def variables_with_source(variables: dict[str, Any]) -> list[dict[str, str]]:
    return [variable["datasource"] for variable in variables.values() if variable["type"] == "query"]


def test_panels_have_ids_and_places_of_their_own():
    board = dashboard()
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
    cells = [
        (x, y)
        for panel in board["panels"]
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(cells) == len(set(cells))
    assert max(x for x, _ in cells) < 24


async def test_nearly_all_that_is_exported_is_shown(labels):
    asked = {selector.name for query in QUERIES for selector in selectors(promql.parse(query.expression))}
    series = {name for name in labels if not name.endswith(("_created", "_bucket", "_sum", "_count"))}
    assert series - asked == {"gptoss_kv_cache_blocks"}
