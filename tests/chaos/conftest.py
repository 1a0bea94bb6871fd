"""A server of the demo model on two ranks, and what it says when nothing happens to it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.support.served_app import ServedApp, serve_app, write_config
from tests.support.streamed_chats import StreamedChat, client, stream_chats

NUM_STREAMS = 50


@pytest.fixture(scope="session")
def served_pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedApp]:
    with serve_app(write_config(tmp_path_factory.mktemp("pair") / "serve.yaml", "demo", num_ranks=2)) as app:
        yield app


@pytest.fixture(scope="session")
def undisturbed(served_pair: ServedApp) -> list[StreamedChat]:
    """Every chat's answer, each stream alone with nothing but the others."""

    async def all_chats() -> list[StreamedChat]:
        async with client(served_pair) as http:
            return await stream_chats(http, range(NUM_STREAMS))

    chats = asyncio.run(all_chats())
    assert not any(chat.problem for chat in chats), chats
    assert len({chat.text for chat in chats}) > NUM_STREAMS / 2, "the chats must tell streams apart"
    return chats
