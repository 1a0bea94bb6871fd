"""A request on which the engine raises fails alone, with an id to find it by; others do not notice."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.chaos.conftest import QUESTIONS
from tests.support.served_app import ROOT, serve_app, write_config
from tests.support.server_health import ServerHealth, check_health
from tests.support.streamed_answers import client, print_pauses, stream_all, stream_one

POISON_SEED = 666_666
NUM_NEIGHBOURS = 12
NUM_ROUNDS = 3

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


async def check_poisoned(http, undisturbed, title) -> None:
    """Send two poisonous requests, one of them a stream, among others that must not notice."""
    poison = QUESTIONS[0].body | {"seed": POISON_SEED, "stream": False}
    poison.pop("stream_options")
    answers, refused, failing = await asyncio.gather(
        stream_all(http, QUESTIONS[: len(undisturbed)]),
        http.post("/v1/completions", json=poison),
        stream_one(http, replace(QUESTIONS[1], body=QUESTIONS[1].body | {"seed": POISON_SEED})),
    )
    assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
    assert refused.status_code == 500
    assert refused.json()["error"]["type"] == "server_error"
    assert refused.headers["x-request-id"]
    assert "poison" not in refused.text
    assert failing.problem
    print_pauses(title, answers)


@pytest.mark.parametrize("num_ranks", [1, 2])
async def test_a_request_that_makes_the_engine_raise_fails_alone_with_500_and_an_id(
    tmp_path, undisturbed, num_ranks
):
    config = write_config(tmp_path / "serve.yaml", "demo", num_ranks=num_ranks)
    path = str(ROOT / "tests/support/poison")
    with serve_app(config, PYTHONPATH=path, POISON_SEED=str(POISON_SEED)) as served:
        before = ServerHealth.read(served)
        async with client(served) as http:
            for _ in range(NUM_ROUNDS):
                await check_poisoned(
                    http, undisturbed[:NUM_NEIGHBOURS], f"a poisonous request, {num_ranks} ranks"
                )
            again = await stream_all(http, QUESTIONS[:2])
            assert [answer.said for answer in again] == [answer.said for answer in undisturbed[:2]]
        check_health(served, before)
