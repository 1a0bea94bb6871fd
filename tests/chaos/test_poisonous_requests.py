"""A request on which the engine raises fails alone, with an id to find it by; others do not notice."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from tests.chaos.conftest import QUESTIONS
from tests.support.served_app import ROOT, serve_app, write_config
from tests.support.server_health import ServerHealth, check_health
from tests.support.streamed_answers import client, stream_all

POISON_SEED = 666_666
NUM_NEIGHBOURS = 12

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]


@pytest.mark.parametrize("num_ranks", [1, 2])
async def test_a_request_that_makes_the_engine_raise_fails_alone_with_500_and_an_id(
    tmp_path, undisturbed, num_ranks
):
    config = write_config(tmp_path / "serve.yaml", "demo", num_ranks=num_ranks)
    path = str(ROOT / "tests/support/poison")
    with serve_app(config, PYTHONPATH=path, POISON_SEED=str(POISON_SEED)) as served:
        before = ServerHealth.read(served)
        async with client(served) as http:
            poison = QUESTIONS[0].body | {"seed": POISON_SEED, "stream": False}
            poison.pop("stream_options")
            answers, refused, failing = await asyncio.gather(
                stream_all(http, QUESTIONS[:NUM_NEIGHBOURS]),
                http.post("/v1/completions", json=poison),
                stream_all(http, [replace(QUESTIONS[1], body=QUESTIONS[1].body | {"seed": POISON_SEED})]),
            )
            assert [answer.said for answer in answers] == [
                answer.said for answer in undisturbed[:NUM_NEIGHBOURS]
            ]
            assert refused.status_code == 500
            assert refused.json()["error"]["type"] == "server_error"
            assert refused.headers["x-request-id"]
            assert "poison" not in refused.text
            assert failing[0].problem
            again = await stream_all(http, QUESTIONS[:2])
            assert [answer.said for answer in again] == [answer.said for answer in undisturbed[:2]]
        check_health(served, before)
