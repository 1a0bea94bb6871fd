"""The page over the real server: Serve, a rank, the demo model."""

import json
import time

import pytest
import yaml

from gptoss_ray.serving.free_ports import free_ports
from tests.support.served_app import ROOT, serve_app

pytestmark = [pytest.mark.browser, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    config = yaml.safe_load((ROOT / "configs/demo.yaml").read_text(encoding="utf-8"))
    config["http_options"]["port"], config["grpc_options"]["port"] = free_ports(2)
    config["applications"][0]["args"]["models"][0]["parallel"]["num_ranks"] = 1
    path = tmp_path_factory.mktemp("page") / "demo.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    with serve_app(path) as app:
        yield app


@pytest.fixture
def tab(open_tab, demo):
    return open_tab(demo.base_url).open()


def test_the_examples_are_ones_that_the_demo_model_can_do(tab, shots, expect):
    tab.page.screenshot(path=shots / "demo-empty.png")
    tab.set(temperature="0")
    for example, answer in [
        ("What is 17 + 25?", "42"),
        ("What is the capital of Japan?", "Tokyo"),
        ("Count from 3 to 9.", "3, 4, 5, 6, 7, 8, 9"),
        ("the quick brown fox", "4 words"),
        ("My name is Ada.", "Ada"),
    ]:
        tab.page.get_by_role("button", name=example).click()
        expect(tab.content).to_contain_text(answer)
        tab.wait_for_end()
        expect(tab.answers.last.locator(".figures")).to_contain_text("reasoning)")
        if "Ada" not in example:
            tab.button("New chat").click()
    tab.ask_to_end("What is my name?")
    expect(tab.content).to_contain_text("Ada")


def test_the_demo_model_calls_a_function_and_answers_from_its_result(tab, shots, expect):
    tab.set(temperature="0")
    tab.page.get_by_role("button", name="What is the weather in Paris?").click()
    expect(tab.page.locator(".call pre").first).to_contain_text('"city": "Paris"')
    expect(tab.page.get_by_label("Result of get_weather")).to_be_visible()
    tab.page.keyboard.press("Enter")
    expect(tab.answers).to_have_count(2)
    tab.wait_for_end()
    expect(tab.content).to_contain_text("18")
    tab.page.screenshot(path=shots / "demo-tools.png")


def test_stopping_frees_the_rank(tab, demo, expect):
    def without_end(route):
        body = {**route.request.post_data_json, "ignore_eos": True}
        route.continue_(post_data=json.dumps(body))

    tab.page.route("**/v1/chat/completions", without_end)
    tab.ask("Count from 0 to 9.")
    tab.button("Stop").click()
    expect(tab.answers.last).to_contain_text("Stopped.")
    deadline_s = time.monotonic() + 30
    while demo.rank_stats()["num_live_requests"]:
        assert time.monotonic() < deadline_s, "the rank still works on what nobody waits for"
        time.sleep(0.05)
