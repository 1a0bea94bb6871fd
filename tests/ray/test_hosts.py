"""Ranks on hosts of their own: what a group across a network answers is what one rank answers alone."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import time
from collections.abc import AsyncGenerator, Sequence
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from gptoss_ray.checkpoint.hub import resolve_folder
from gptoss_ray.config import ServedModelConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.generation import GenerationRequest, TokenOutput
from gptoss_ray.harmony.encoding import HarmonyEncoding
from gptoss_ray.ranks.engine_loader import load_engine
from gptoss_ray.serving.ingress import Ingress
from gptoss_ray.serving.models import ServedModel
from tests.support.hosts import Host, hosts, why_no_hosts
from tests.support.ingresses import http_client
from tests.support.ray_on_hosts import KEY, demo_config, ray_environment, served, start_ray, write_config

NUM_CHATS = 32

GREEDY = {"temperature": 0}
# The demo model is so sure of itself that at a temperature of 1 hardly any seed changes its answers.
SEEDED = {"temperature": 2, "seed": 11}

LISTEN = """
import socket
with socket.create_server(("", 7)) as server:
    print("up", flush=True)
    while True:
        server.accept()[0].close()
"""
CONNECT = "import socket, sys; socket.create_connection((sys.argv[1], 7), 10).close()"
LEAVE_AN_ORPHAN = "import os, time; os.fork() or os.fork() or time.sleep(0.2)"
FIND_ZOMBIES = "grep -l '^State:.Z' /proc/[0-9]*/status || true"

pytestmark = [pytest.mark.hosts, pytest.mark.timeout(600)]


@pytest.fixture(scope="module", autouse=True)
def _needs_hosts() -> None:
    reason = why_no_hosts()
    if reason is not None:
        pytest.skip(reason)


# The hosts themselves


def test_hosts_reach_one_another_by_name_and_share_no_files_in_memory(tmp_path):
    with hosts(2, tmp_path) as (one, other):
        listen = other.command(sys.executable, "-c", LISTEN)
        with subprocess.Popen(listen, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == "up\n"
            one.run(sys.executable, "-c", CONNECT, other.name)
            socket.create_connection((other.address, 7), 10).close()
            with pytest.raises(AssertionError, match="Connection refused"):
                one.run(sys.executable, "-c", CONNECT, one.name)
            server.kill()
        assert one.run("hostname") == f"{one.name}\n"
        one.run("touch", "/dev/shm/mine", "/tmp/ray/mine")
        assert "mine" in one.run("ls", "/dev/shm", "/tmp/ray")
        assert "mine" not in other.run("ls", "/dev/shm", "/tmp/ray")


def test_the_first_process_of_a_host_reaps_orphans(tmp_path):
    with hosts(1, tmp_path) as (host,):
        host.run(sys.executable, "-c", LEAVE_AN_ORPHAN)
        deadline = time.monotonic() + 10
        while zombies := host.run("sh", "-c", FIND_ZOMBIES):
            assert time.monotonic() < deadline, zombies


def test_hosts_leave_nothing_behind_even_after_a_failure(tmp_path):
    interfaces, mounts = set(psutil.net_if_addrs()), Path("/proc/mounts").read_text()
    with pytest.raises(RuntimeError, match="of the test"), hosts(2, tmp_path) as made:
        processes = [*made[0].processes(), *made[1].processes()]
        sleeper = subprocess.Popen(made[0].command("sleep", "1000"))
        raise RuntimeError("of the test")
    assert sleeper.wait(10) != 0
    assert len(processes) == 2
    assert not any(process.is_running() for process in processes)
    assert set(psutil.net_if_addrs()) == interfaces
    assert Path("/proc/mounts").read_text() == mounts


# A group on them


@pytest.mark.parametrize(
    ("num_ranks", "num_hosts"),
    [(2, 2), (4, 2), (3, 3)],
    ids=["a rank on each host", "two ranks on each host", "unequal shares on three hosts"],
)
async def test_ranks_on_several_hosts_answer_as_one(tmp_path, lone_rank, num_ranks, num_hosts):
    environment = ray_environment(tmp_path)
    with hosts(num_hosts, tmp_path) as cluster:
        start_ray(cluster, environment)
        config = write_config(tmp_path / "serve.yaml", cluster[0], num_ranks, num_hosts)
        with served(cluster[0], config, environment) as url:
            check_wires(cluster, num_ranks // num_hosts)
            for sampling in (GREEDY, SEEDED):
                chats = [make_chat(number) | sampling for number in range(NUM_CHATS)]
                async with httpx.AsyncClient(base_url=url, headers=KEY, timeout=240) as client:
                    answers = await asyncio.gather(*(ask(client, chat) for chat in chats))
                for chat, answer in zip(chats, answers, strict=True):
                    alone = await lone_rank.answer(chat, answer["created"])
                    assert comparable(answer) == comparable(alone), chat["messages"][-1]
                assert len({str(answer["choices"]) for answer in answers}) > NUM_CHATS / 2
                assert any(answer["choices"][0]["logprobs"] for answer in answers)


def make_chat(number: int) -> dict[str, Any]:
    """A question with 0 to 5 turns before it; log probabilities tell what texts hide."""
    turns = [{"role": "user", "content": f"My name is Zan{number}."}, {"role": "assistant", "content": "Hi!"}]
    question = {"role": "user", "content": f"What is {number} + {97 - number}?"}
    messages = [*turns * (number % 6), question]
    return {"model": "demo", "messages": messages, "max_tokens": 96, "logprobs": True, "top_logprobs": 2}


async def ask(client: httpx.AsyncClient, chat: dict[str, Any]) -> dict[str, Any]:
    response = await client.post("/v1/chat/completions", json=chat)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def comparable(answer: dict[str, Any]) -> tuple[Any, ...]:
    usage = answer["usage"]
    return answer["choices"], usage["prompt_tokens"], usage["completion_tokens"]


class LoneRank:
    """An ingress over a single engine of this process, which works on one request at a time."""

    def __init__(self) -> None:
        config = ServedModelConfig.model_validate(demo_config()["applications"][0]["args"]["models"][0])
        folder = resolve_folder(config.checkpoint)
        encoding = HarmonyEncoding.load(folder)
        reserved = [id_ for id_ in range(encoding.vocab_size) if encoding.is_reserved(id_)]
        engine = load_engine(config, 0, None, reserved, lambda fraction: None)
        self._model = ServedModel(
            name=config.name,
            encoding=encoding,
            max_context=engine.max_context,
            vocab_size=encoding.vocab_size,
            token_source=_EngineSource(engine),
        )
        self._answers: dict[tuple[str, int], dict[str, Any]] = {}

    async def answer(self, chat: dict[str, Any], created: int) -> dict[str, Any]:
        """Answer a chat as on the day of a moment in Unix time, which the prompt tells; each chat once."""
        key = str(chat), created // 86_400
        if key not in self._answers:
            async with http_client(Ingress([self._model], clock=lambda: created)) as client:
                self._answers[key] = await ask(client, chat)
        return self._answers[key]


class _EngineSource:
    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def ready(self) -> bool:
        return True

    async def generate(self, request: GenerationRequest) -> AsyncGenerator[TokenOutput, None]:
        self._engine.submit(request)
        while self._engine.has_work:
            for output in self._engine.step():
                yield output


@pytest.fixture(scope="module")
def lone_rank() -> LoneRank:
    return LoneRank()


def check_wires(cluster: Sequence[Host], num_ranks_per_host: int) -> None:
    """Ranks of one host share one piece of memory; ranks of different hosts share none."""
    ranks = [host.processes("ray::EngineRank") for host in cluster]
    memories = [[shared_memory(rank) for rank in of_host] for of_host in ranks]
    assert [len(host) for host in memories] == [num_ranks_per_host] * len(cluster)
    if num_ranks_per_host == 1:
        assert memories == [[set()]] * len(cluster)
        return
    for host in memories:
        assert len(host[0]) == 1
        assert all(memory == host[0] for memory in host)
    assert len(set.union(*(host[0] for host in memories))) == len(cluster)


def shared_memory(process: psutil.Process) -> set[str]:
    """Return the inodes of the memory that a rank has mapped to exchange with others."""
    lines = Path(f"/proc/{process.pid}/maps").read_text(encoding="utf-8").splitlines()
    return {line.split()[4] for line in lines if "memfd:gptoss_ray" in line}
