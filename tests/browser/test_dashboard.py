"""The dashboard, over a server whose replica has healed and works."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from gptoss_ray.ranks.group_stats import GroupStats
from tests.support.chat_tab import ChatTab
from tests.support.group_stats import healed_group, rank_stats
from tests.support.ingresses import MODEL, http_server, make_ingress
from tests.support.scripted_source import ScriptedSource

pytestmark = pytest.mark.browser
LIGHTS = pytest.mark.parametrize("scheme", ["light", "dark"])
NUM_LAYERS, NUM_EXPERTS = 24, 32


class WorkingSource(ScriptedSource):
    """Each answer of `stats` tells more work than the one before."""

    def __init__(self, change: Callable[[GroupStats], GroupStats] = lambda group: group) -> None:
        super().__init__([])
        self.change = change
        self._turns = itertools.count(1)

    async def stats(self) -> Sequence[GroupStats]:
        return [self.change(working_group(next(self._turns)))]


def working_group(turn: int) -> GroupStats:
    def counts(number: int) -> tuple[tuple[int, ...], ...]:
        return tuple(
            tuple(turn * (1 + (expert * expert + 7 * layer + number) % 23) for expert in range(NUM_EXPERTS))
            for layer in range(NUM_LAYERS)
        )

    ranks = tuple(
        replace(
            rank_stats(
                number,
                num_steps=100 * turn,
                num_generation_tokens=(400 + 80 * number) * turn,
                num_prompt_tokens=1000 * turn,
                num_expert_rows=(3000 + 1000 * number) * turn,
                all_to_all_s=0.3 * turn,
                prefix_cache_queries=100,
                prefix_cache_hits=40,
                expert_load=counts(number),
            ),
            step_s=1.2 * turn,
        )
        for number in range(2)
    )
    return replace(healed_group(), ranks=ranks)


@pytest.fixture
def dashboard(open_tab: Callable[..., ChatTab]) -> Callable[..., ChatTab]:
    """Open the dashboard of a server; returns once it shows a model."""

    def open_one(url: str, **options: Any) -> ChatTab:
        tab = open_tab(url, **options)
        tab.page.goto(f"{url}/dashboard")
        tab.page.locator(".model-view").wait_for()
        return tab

    return open_one


def rates_are_there(tab: ChatTab, expect: Any) -> None:
    expect(tab.page.locator(".figure dd").first).not_to_have_text("–")


def test_ranks_experts_and_events_are_shown(dashboard, expect):
    with http_server(make_ingress(WorkingSource())) as url:
        tab = dashboard(url)
        page = tab.page
        expect(page.get_by_role("heading", name=MODEL)).to_be_visible()
        rates_are_there(tab, expect)
        expect(page.get_by_role("heading", name="Replica replica-a")).to_contain_text("serving")
        expect(page.locator(".replica-summary")).to_contain_text("epoch 3 · 2 members of 2 ranks")
        rows = page.locator("table.ranks tbody tr")
        expect(rows).to_have_count(2)
        expect(rows.nth(1)).to_contain_text("1.1")
        expect(rows.nth(1)).to_contain_text("10.0.0.2")
        expect(rows.nth(1)).to_contain_text("75 %")
        expect(rows.nth(0)).to_contain_text("12 ms")  # 1.2 s of 100 steps
        expect(rows.nth(0)).to_contain_text("25 %")  # 0.3 of 1.2 s
        expect(page.locator(".events li").first).to_contain_text("Epoch granted")
        expect(page.locator(".events li").last).to_contain_text("Rank lost")
        expect(page.get_by_role("img", name="24 layers of 32 experts")).to_be_visible()


def test_the_heat_map_has_a_cell_for_each_expert_and_tells_the_one_pointed_at(dashboard, expect):
    with http_server(make_ingress(WorkingSource())) as url:
        tab = dashboard(url)
        canvas = tab.page.locator("canvas.heat")
        size = canvas.evaluate("canvas => [canvas.width, canvas.height]")
        assert size[0] / NUM_EXPERTS == size[1] / NUM_LAYERS
        colours = canvas.evaluate(
            """canvas => {
              const {data, width} = canvas.getContext("2d").getImageData(0, 0, canvas.width, 8);
              const start = (x) => 4 * (3 * width + 8 * x + 3);
              const at = (x) => data.slice(start(x), start(x) + 3).join();
              return new Set(Array.from({length: 32}, (_, x) => at(x))).size;
            }"""
        )
        assert colours > 5
        box = canvas.bounding_box()
        middle = {"x": box["width"] * 0.5 / NUM_EXPERTS, "y": box["height"] * (1 - 0.5 / NUM_LAYERS)}
        canvas.hover(position=middle)
        expect(tab.page.locator(".heat-pointed")).to_contain_text("Layer 23, expert 0: ")


def test_a_lost_rank_and_a_healing_replica_stand_out_and_are_said(dashboard, expect):
    source = WorkingSource()
    with http_server(make_ingress(source)) as url:
        tab = dashboard(url)
        expect(tab.page.locator(".badge")).to_have_text("serving")
        source.change = lambda group: replace(
            group, stage="preparing", members=("0",), ranks=group.ranks[:1], epoch=4
        )
        expect(tab.page.locator(".badge.is-alarming")).to_have_text("healing")
        expect(tab.page.locator("tr.is-missing")).to_contain_text("missing")
        expect(tab.page.locator("#announcements")).to_have_text("Replica replica-a is preparing.")


def test_a_rank_alone_has_no_heat_map_and_a_replica_that_goes_disappears(dashboard, expect):
    def alone(group: GroupStats) -> GroupStats:
        (rank, _) = group.ranks
        engine = replace(rank.engine, expert_load=())
        return replace(group, ranks=(replace(rank, engine=engine),), hosts={0: "here"}, events=())

    source = WorkingSource(alone)
    with http_server(make_ingress(source)) as url:
        tab = dashboard(url)
        expect(tab.page.locator("canvas.heat")).to_be_hidden()
        expect(tab.page.get_by_text("Nothing has happened to this replica.")).to_be_visible()
        source.change = lambda group: replace(group, replica="replica-b")
        expect(tab.page.get_by_role("heading", name="Replica replica-b")).to_be_visible()
        expect(tab.page.locator(".replica")).to_have_count(1)


def test_it_asks_for_a_key_and_tells_when_the_server_is_gone(open_tab, expect):
    with http_server(make_ingress(WorkingSource(), api_keys=["key"])) as url:
        tab = open_tab(url)
        tab.page.goto(f"{url}/dashboard")
        tab.page.get_by_label("API key", exact=True).fill("key")
        tab.page.keyboard.press("Enter")
        tab.page.locator(".model-view").wait_for()
    expect(tab.error).to_contain_text("The server cannot be reached.")
    expect(tab.page.locator("table.ranks tbody tr")).to_have_count(2)


def test_a_paused_page_reads_no_more_until_it_goes_on(dashboard, expect):
    with http_server(make_ingress(WorkingSource())) as url:
        tab = dashboard(url)
        rates_are_there(tab, expect)
        tab.button("Pause").click()
        expect(tab.button("Pause")).to_have_attribute("aria-pressed", "true")
        tab.page.wait_for_timeout(300)  # what was under way
        num_read = len(tab.requests)
        tab.page.wait_for_timeout(2500)
        assert len(tab.requests) == num_read
        with tab.page.expect_request("**/dashboard/state"):
            tab.button("Pause").click()


def test_chat_and_dashboard_lead_to_each_other_below_a_prefix(dashboard, expect):
    with http_server(make_ingress(WorkingSource()), prefix="/gpt") as url:
        tab = dashboard(url)
        tab.page.get_by_role("link", name="Chat", exact=True).click()
        tab.page.locator("#model:enabled").wait_for()
        tab.page.get_by_role("link", name="Dashboard").click()
        tab.page.locator(".model-view").wait_for()
        assert tab.page.url == f"{url}/dashboard"


@LIGHTS
@pytest.mark.parametrize("width", [1280, 360])
def test_axe_finds_nothing_against_wcag_on_any_width(dashboard, axe, expect, shots, scheme, width):
    source = WorkingSource()
    with http_server(make_ingress(source)) as url:
        tab = dashboard(url, color_scheme=scheme, viewport={"width": width, "height": 900})
        rates_are_there(tab, expect)
        tab.page.wait_for_timeout(4500)  # a trend has some points
        assert tab.violations(axe) == []
        tab.page.screenshot(path=shots / f"dashboard-{scheme}-{width}.png", full_page=True)
        overflow = tab.page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert overflow <= 0
        source.change = lambda group: replace(group, stage="preparing", ranks=group.ranks[:1])
        tab.page.locator("tr.is-missing").wait_for()
        assert tab.violations(axe) == []
