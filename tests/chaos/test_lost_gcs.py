"""Ray's control store dies, and is back half a minute later: whatever is being served does not notice."""

from __future__ import annotations

import asyncio
import subprocess
import time

import psutil
import pytest

from tests.chaos.conftest import QUESTIONS
from tests.support.redis_server import redis_server, why_no_redis
from tests.support.served_app import ServedApp, serve_app, write_config
from tests.support.server_health import ServerHealth, check_health
from tests.support.streamed_answers import client, stream_all

AWAY_S = 30

pytestmark = [
    pytest.mark.chaos,
    pytest.mark.timeout(900),
    pytest.mark.skipif(why_no_redis() is not None, reason=str(why_no_redis())),
]


def restart_gcs(served: ServedApp) -> None:
    """Kill the control store, and start it again after a while as it was, as a supervisor would."""
    (gcs,) = [each for each in served.processes("gcs_server") if each.name() == "gcs_server"]
    command, environment, folder = gcs.cmdline(), gcs.environ(), gcs.cwd()
    gcs.kill()
    gcs.wait(10)
    time.sleep(AWAY_S)
    subprocess.Popen(command, env=environment, cwd=folder, start_new_session=True)


async def test_answers_stream_on_while_the_gcs_is_away_and_after_it_is_back(tmp_path, undisturbed):
    config = write_config(tmp_path / "serve.yaml", "demo", num_ranks=2)
    with redis_server(tmp_path) as address, serve_app(config, RAY_REDIS_ADDRESS=address) as served:
        before = ServerHealth.read(served)
        async with client(served) as http:
            restarting = asyncio.create_task(asyncio.to_thread(restart_gcs, served))
            num_rounds = 0
            while not restarting.done() or num_rounds < 2:
                answers = await stream_all(http, QUESTIONS)
                assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
                num_rounds += 1
            await restarting
        check_health(served, before)
        (gcs,) = [each for each in served.processes("gcs_server") if each.name() == "gcs_server"]
        assert gcs.status() != psutil.STATUS_ZOMBIE
        # What needs the control store works again: a lost rank is replaced.
        served.processes("EngineRank")[0].kill()
        async with client(served) as http:
            answers = await stream_all(http, QUESTIONS)
            assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
        check_health(served, before)
