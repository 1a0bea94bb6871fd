"""Memory and disks that are full: what was begun ends exactly, and serving goes on."""

from __future__ import annotations

import asyncio
import contextlib
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.conftest import QUESTIONS
from tests.support.served_app import serve_app, write_config
from tests.support.server_health import ServerHealth, check_health
from tests.support.streamed_answers import Question, StreamedAnswer, client, stream_all

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(900)]

NUM_LONG = 24
NUM_SHORT = 80


def long_prompt(number: int, max_tokens: int = 600) -> Question:
    """Some 600 tokens of prompt and as many of output: a few of them fill a small KV cache."""
    body = {
        "model": "tiny",
        "prompt": f"{number} blocks are filled by a prompt without end, and so on. " * 30,
        "max_tokens": max_tokens,
        "ignore_eos": True,
        "logprobs": 0,
        "temperature": 0.7,
        "seed": number,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    return Question(number, "/v1/completions", body)


async def test_long_prompts_that_exhaust_the_kv_cache_all_end_exact_or_are_refused_before_they_begin(
    served_pair, tmp_path
):
    questions = [long_prompt(number) for number in range(NUM_LONG)]
    async with client(served_pair) as http:
        expected = await stream_all(http, questions)
    assert not any(answer.problem for answer in expected), expected
    small = write_config(tmp_path / "serve.yaml", "demo", engine={"kv_cache_bytes": 3 << 20})
    with serve_app(small) as served:
        before = ServerHealth.read(served)
        async with client(served) as http:
            # Outputs are thought to be as short as these, so more is let in than there is room for.
            await stream_all(http, [long_prompt(0, max_tokens=20)] * NUM_SHORT)
            answers = await stream_all(http, questions)
        assert served.rank_stats()["engine"]["num_preemptions"] > 0, "the KV cache was never exhausted"
        for answer, whole in zip(answers, expected, strict=True):
            assert answer.said == whole.said or was_refused(answer)
        assert any(not answer.problem for answer in answers)
        check_health(served, before)


def was_refused(answer: StreamedAnswer) -> bool:
    return answer.problem.startswith("HTTP 429") and not answer.text


@contextlib.contextmanager
def small_disk(size: str) -> Iterator[Path]:
    """Mount a file system that is soon full; its path is short, for names of sockets have limits."""
    with tempfile.TemporaryDirectory(prefix="full-", dir="/tmp") as folder:
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
        try:
            yield Path(folder)
        finally:
            subprocess.run(["umount", "--lazy", folder], check=True)


def fill(folder: Path) -> None:
    """Write until nothing more fits."""
    with (folder / "ballast").open("wb", buffering=0) as ballast, contextlib.suppress(OSError):
        while True:
            ballast.write(bytes(1 << 16))
    assert os.statvfs(folder).f_bavail == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a disk needs root")
async def test_a_full_disk_under_the_logs_and_the_session_disturbs_no_stream(tmp_path, undisturbed):
    with small_disk("256m") as disk:
        config = write_config(tmp_path / "serve.yaml", "demo", num_ranks=2)
        with serve_app(config, TMPDIR=str(disk)) as served:
            assert str(served.logs).startswith(str(disk))
            before = ServerHealth.read(served)
            async with client(served) as http:
                fill_soon = [(1, lambda: fill(disk))]
                answers = await stream_all(http, QUESTIONS, fill_soon)
                assert [answer.said for answer in answers] == [answer.said for answer in undisturbed]
                again = await asyncio.wait_for(stream_all(http, QUESTIONS[:10]), 120)
                assert [answer.said for answer in again] == [answer.said for answer in undisturbed[:10]]
                (disk / "ballast").unlink()
            check_health(served, before)
