"""A server of the demo model, two ranks behind two ingresses, and what it says when nothing happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.served_app import ServedApp, serve_app, write_config
from tests.support.streamed_answers import StreamedAnswer, client, long_answer, print_pauses, stream_all

NUM_STREAMS = 50


@pytest.fixture(scope="session")
def served_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    path = tmp_path_factory.mktemp("pair") / "serve.yaml"
    with serve_app(write_config(path, "demo", num_ranks=2, num_ingresses=2)) as app:
        yield app


QUESTIONS = [long_answer(number) for number in range(NUM_STREAMS)]


@pytest.fixture(scope="session")
def undisturbed(served_pair: ServedApp) -> list[StreamedAnswer]:
    """The answer to every question, streamed with all others and nothing else."""

    async def all_answers() -> list[StreamedAnswer]:
        async with client(served_pair) as http:
            return await stream_all(http, QUESTIONS)

    answers = asyncio.run(all_answers())
    assert not any(answer.problem for answer in answers), answers
    assert len({str(answer.said) for answer in answers}) == NUM_STREAMS, "questions must differ"
    print_pauses("nothing happens", answers)
    return answers
