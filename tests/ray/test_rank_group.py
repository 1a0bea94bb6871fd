"""Groups of several ranks as Serve runs them: equal answers, affinity, the loss of a rank, no room."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from threading import Barrier

import httpx
import pytest

from tests.support.served_app import ROOT, ServedApp, serve_app, write_config

NUM_RANKS = 2

pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def served_group(tmp_path_factory: pytest.TempPathFactory, tiny_checkpoint: Path) -> Iterator[ServedApp]:
    """A server of one group of two ranks."""
    folder = tmp_path_factory.mktemp("group")
    with serve_app(write_config(folder / "serve.yaml", tiny_checkpoint, num_ranks=NUM_RANKS)) as app:
        yield app


@pytest.fixture
def http(served_group: ServedApp) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=served_group.base_url, headers=served_group.headers, timeout=120) as client:
        yield client


def completion(prompt: str, max_tokens: int = 16, **fields: object) -> dict[str, object]:
    return {"model": "tiny", "prompt": prompt, "max_tokens": max_tokens, "seed": 1} | fields


def complete_all(served: ServedApp, num_requests: int) -> list[str]:
    """Return the texts of different requests that run at the same time."""
    with httpx.Client(base_url=served.base_url, headers=served.headers, timeout=120) as client:

        def complete(number: int) -> str:
            request = completion(f"request {number}", seed=number, min_tokens=16)
            text: str = (
                client.post("/v1/completions", json=request).raise_for_status().json()["choices"][0]["text"]
            )
            return text

        with ThreadPoolExecutor(num_requests) as pool:
            return list(pool.map(complete, range(num_requests)))


def stream_all(served: ServedApp, num_streams: int) -> list[list[tuple[str, float]]]:
    """Return the tokens and their logprobs of different requests that stream at the same time."""
    with httpx.Client(base_url=served.base_url, headers=served.headers, timeout=120) as client:

        def stream(number: int) -> list[tuple[str, float]]:
            request = completion(f"stream {number}", 48, seed=number, min_tokens=48, logprobs=0, stream=True)
            with client.stream("POST", "/v1/completions", json=request) as response:
                assert response.status_code == 200
                lines = [line.removeprefix("data: ") for line in response.iter_lines() if line]
            choices = [choice for line in lines if line != "[DONE]" for choice in json.loads(line)["choices"]]
            logprobs = [choice["logprobs"] for choice in choices if choice["logprobs"]]
            return [
                pair for each in logprobs for pair in zip(each["tokens"], each["token_logprobs"], strict=True)
            ]

        with ThreadPoolExecutor(num_streams) as pool:
            return list(pool.map(stream, range(num_streams)))


def long_text(client: httpx.Client, number: int, has_begun: Barrier | None = None) -> str:
    """Stream a long answer; return its text once it has ended."""
    request = completion(f"stream {number}", 400, seed=number, min_tokens=400, stream=True)
    text = ""
    with client.stream("POST", "/v1/completions", json=request) as response:
        assert response.status_code == 200
        for line in response.iter_lines():
            if line.startswith("data: {"):
                if not text and has_begun is not None:
                    has_begun.wait(60)
                text += "".join(choice["text"] for choice in json.loads(line[6:])["choices"]) or " "
    return text


def test_a_group_gives_the_answers_of_a_rank_alone_from_all_its_ranks(served, served_group):
    assert complete_all(served_group, 8) == complete_all(served, 8)
    stats = served_group.ask("stats")
    assert [rank["rank"] for rank in stats] == [0, 1]
    assert all(rank["engine"]["num_generation_tokens"] >= 2 * 16 for rank in stats)
    assert all(rank["num_failed_steps"] == 0 for rank in stats)


def test_a_prompt_comes_back_to_the_rank_that_has_its_blocks(http):
    for number in range(NUM_RANKS + 1):
        text = f"conversation {number}: " + "some words that all turns share " * 20
        first, second = (http.post("/v1/completions", json=completion(text)).json() for _ in range(2))
        assert first["usage"]["prompt_tokens"] > 64
        assert second["usage"]["prompt_tokens_details"]["cached_tokens"] >= 64
        assert first["choices"] == second["choices"]


def test_all_streams_of_a_group_that_loses_a_rank_go_on_and_the_group_is_whole_again(served_group, http):
    num_streams = 2 * NUM_RANKS
    with ThreadPoolExecutor(num_streams) as pool:
        undisturbed = list(pool.map(partial(long_text, http), range(num_streams)))
        has_begun = Barrier(num_streams + 1)
        streams = [pool.submit(long_text, http, number, has_begun) for number in range(num_streams)]
        has_begun.wait(60)
        ranks = served_group.processes("EngineRank")
        assert len(ranks) == NUM_RANKS
        ranks[0].kill()
        assert [stream.result(300) for stream in streams] == undisturbed
    deadline = time.monotonic() + 120
    while len(served_group.processes("EngineRank")) != NUM_RANKS:
        assert time.monotonic() < deadline
        time.sleep(0.5)
    assert [rank["rank"] for rank in served_group.ask("stats")] == [0, 1]


def test_experts_that_follow_the_load_while_answers_stream_change_no_bit(tmp_path, tiny_checkpoint, served):
    expected = stream_all(served, 8)
    assert all(len(tokens) == 48 for tokens in expected)
    parallel = {"num_spare_experts": 2, "rebalance_interval_s": 0.2, "rebalance_min_tokens": 20}
    config = write_config(tmp_path / "serve.yaml", tiny_checkpoint, num_ranks=NUM_RANKS, parallel=parallel)
    with serve_app(config) as app:
        deadline = time.monotonic() + 240
        placements = [0]
        while max(placements) == 0:
            assert time.monotonic() < deadline
            assert stream_all(app, 8) == expected
            placements = [rank["engine"]["placement"] for rank in app.ask("stats")]
        assert stream_all(app, 8) == expected
        assert all(rank["num_failed_steps"] == 0 for rank in app.ask("stats"))


def run(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *map(str, arguments)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, check=False)


def test_ranks_that_find_no_room_are_refused_before_anything_starts(tmp_path, tiny_checkpoint):
    config = write_config(tmp_path / "serve.yaml", tiny_checkpoint, num_ranks=1000)
    done = run("-m", "gptoss_ray.cli", "serve", config)
    assert done.returncode == 1
    assert "tiny needs 1000 CPUs on one node (1000 ranks of 1 CPU each); this machine has" in done.stderr
    assert "lower parallel.num_ranks" in done.stderr
    assert "starting Ray" not in done.stdout
    assert "Traceback" not in done.stderr


def test_a_group_on_two_nodes_gives_the_answers_of_a_rank_alone(tiny_checkpoint):
    done = run("-W", "ignore", "-m", "tests.support.two_node_group", tiny_checkpoint)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["spread"]["answers"] == found["alone"]["answers"]
    assert found["spread"]["ranks"] == [0, 1]
    assert len(set(found["spread"]["hosts"])) == 2
