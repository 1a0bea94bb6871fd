"""Ray's control store dies, and is back half a minute later: whatever is being served does not notice."""

from __future__ import annotations

import asyncio
import re
import subprocess
import time
from contextlib import ExitStack

import psutil
import pytest

from tests.chaos.conftest import QUESTIONS
from tests.support.redis_server import redis_server, why_no_redis
from tests.support.served_app import ServedApp, serve_app, write_config
from tests.support.server_health import ServerHealth, check_health
from tests.support.streamed_answers import client, print_pauses, stream_all

AWAY_S = 30

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(900),
    pytest.mark.skipif(why_no_redis() is not None, reason=str(why_no_redis())),
]


def gcs_of(served: ServedApp) -> psutil.Process:
    (gcs,) = [each for each in served.processes("gcs_server") if each.name() == "gcs_server"]
    return gcs


def restart_gcs(served: ServedApp, at_the_end: ExitStack) -> None:
    """Kill the control store, and start it again after a while as it was, as a supervisor would."""
    gcs, (raylet, *_) = gcs_of(served), served.processes("--gcs-address=")
    (address,) = [word for word in raylet.cmdline() if word.startswith("--gcs-address=")]
    port = address.rpartition(":")[2]  # a free one was taken at its first start
    command = [re.sub(r"(?<=--gcs_server_port=)0$", port, word) for word in gcs.cmdline()]
    environment, folder = gcs.environ(), gcs.cwd()
    gcs.kill()
    time.sleep(AWAY_S)
    assert not served.processes("gcs_server")
    process = at_the_end.enter_context(subprocess.Popen(command, env=environment, cwd=folder))
    at_the_end.callback(process.kill)


async def test_answers_stream_on_while_the_gcs_is_away_and_after_it_is_back(tmp_path, undisturbed):
    config = write_config(tmp_path / "serve.yaml", "demo", num_ranks=2)
    with (
        redis_server(tmp_path) as address,
        ExitStack() as at_the_end,
        serve_app(config, RAY_REDIS_ADDRESS=address) as served,
    ):
        async with client(served) as http:
            # An ingress that meets a rank for the first time asks the control store for it.
            await stream_all(http, QUESTIONS)
            before = ServerHealth.read(served)
            restarting = asyncio.create_task(asyncio.to_thread(restart_gcs, served, at_the_end))
            num_rounds = 0
            while not restarting.done() or num_rounds < 2:
                answers = await stream_all(http, QUESTIONS)
                assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
                print_pauses(f"control store lost, round {num_rounds}", answers)
                num_rounds += 1
            await restarting
        check_health(served, before)
        assert gcs_of(served).is_running()
        # What needs the control store works again: a lost rank is replaced.
        served.processes("EngineRank")[0].kill()
        async with client(served) as http:
            answers = await stream_all(http, QUESTIONS)
            assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
        check_health(served, before)
