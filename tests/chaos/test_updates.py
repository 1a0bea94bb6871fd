"""Configurations change under load: requests run on, or move, and none fails."""

from __future__ import annotations

import asyncio

import pytest
import yaml

from tests.support.served_app import serve_app, write_config
from tests.support.streamed_answers import chat, client, stream_one

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

REQUESTS_PER_S = 20
LOAD_S = 40


async def load(served, seconds: float, at_s: float, change) -> list[tuple[int, object]]:
    """Start chats at a steady rate and change the server meanwhile; return numbers and streams."""
    async with client(served) as http:

        async def one(index: int) -> tuple[int, object]:
            await asyncio.sleep(index / REQUESTS_PER_S)
            return index % 40, await stream_one(http, chat(index % 40))

        async def disturb() -> None:
            await asyncio.sleep(at_s)
            await asyncio.to_thread(change)

        answers, _ = await asyncio.gather(
            asyncio.gather(*(one(index) for index in range(int(seconds * REQUESTS_PER_S)))), disturb()
        )
    return list(answers)


def changed(path, change):
    """Write a changed copy of a configuration; return its path."""
    config = yaml.safe_load(path.read_text())
    change(config)
    copy = path.with_name(f"changed-{path.name}")
    copy.write_text(yaml.safe_dump(config))
    return copy


def deployment(config, name):
    return next(each for each in config["applications"][0]["deployments"] if each["name"] == name)


def two_replicas(config):
    config["applications"][0]["args"]["models"][0].pop("scaling", None)
    deployment(config, "EngineReplica")["num_replicas"] = 2


def one_replica(config):
    two_replicas(config)
    deployment(config, "EngineReplica")["num_replicas"] = 1


def another_engine(config):
    config["applications"][0]["args"]["models"][0]["engine"]["max_num_batched_tokens"] = 256


@pytest.mark.parametrize("change", [one_replica, another_engine], ids=["scale-down", "rolling update"])
async def test_a_change_under_load_fails_no_request(tmp_path, change):
    path = write_config(tmp_path / "serve.yaml", "demo")
    config = yaml.safe_load(path.read_text())
    two_replicas(config)
    path.write_text(yaml.safe_dump(config))
    with serve_app(path) as served:
        new = changed(path, change)

        def apply() -> None:
            assert served.ask(f"deploy {new}") == "done"

        answers = await load(served, LOAD_S, LOAD_S / 4, apply)
        problems = [answer.problem for _, answer in answers if answer.problem]
        assert problems == []
        by_number = {}
        for number, answer in answers:
            assert by_number.setdefault(number, answer.said) == answer.said
        expected = 1 if change is one_replica else 2
        deadline = asyncio.get_running_loop().time() + 120
        while len(served.processes("ServeReplica:gptoss:EngineReplica")) != expected:
            assert asyncio.get_running_loop().time() < deadline
            await asyncio.sleep(0.5)
