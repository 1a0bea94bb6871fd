"""A group that loses a process: the requests of all others end at once, and can be sent again."""

from __future__ import annotations

import queue
import time
from concurrent.futures.process import BrokenProcessPool

import pytest

from gptoss_ray.checkpoint.synthetic import write_checkpoint
from gptoss_ray.config import ParallelConfig, ServedModelConfig
from gptoss_ray.errors import RequestLostError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from gptoss_ray.ranks.engine_loader import load_engine
from gptoss_ray.ranks.step_loop import StepLoop
from tests.support.engine_runs import small_config
from tests.support.group_cases import WIRES
from tests.support.group_requests import CONFIG
from tests.support.rank_processes import rank_processes

NUM_RANKS = 3
MAX_TOKENS = 20_000  # more than there is time for
WITHIN_S = 10.0  # 2 s are the aim; a busy machine may take longer, and timings decide no test


def stream_until_the_end(link, config, folder):
    """Serve an endless request; return its last output, when that came, and whether the rank seems well."""
    batches = queue.SimpleQueue()
    loop = StepLoop(load_engine(config, link.rank, link, (), lambda fraction: None), batches.put)
    loop.start()
    params = SamplingParams(temperature=0.0, max_tokens=MAX_TOKENS)
    loop.submit(GenerationRequest("endless", (1, 2, 3), params, sink_id="test")).result()
    while True:
        (output,) = batches.get()["test"]
        (folder / str(link.rank)).touch()
        if output.finish_reason is not None:
            ended_at = time.monotonic()  # of all processes of the machine
            loop.stop()
            return output, ended_at, loop.is_responsive()


@pytest.mark.parametrize(
    ("wire", "lost_rank"),
    [
        ("shared memory", 1),
        ("gloo", 0),
        pytest.param("two hosts", 1, marks=pytest.mark.ep),
        pytest.param("two hosts", 2, marks=pytest.mark.ep),
    ],
)
def test_a_killed_rank_ends_all_requests_of_its_group_so_that_they_can_be_sent_again(
    tmp_path, wire, lost_rank
):
    write_checkpoint(tmp_path / "checkpoint", CONFIG, seed=23)
    config = ServedModelConfig(
        name="m",
        checkpoint=str(tmp_path / "checkpoint"),
        engine=small_config(kv_cache_bytes=64 << 20),
        parallel=ParallelConfig(
            num_ranks=NUM_RANKS,
            shared_memory=WIRES[wire].shared_memory,
            collective_timeout_s=3600,  # no deadline ends what only a death should
        ),
    )
    streaming = tmp_path / "streaming"
    streaming.mkdir()
    futures = rank_processes().start(
        stream_until_the_end, config, streaming, hosts=WIRES[wire].hosts[:NUM_RANKS], config=config.parallel
    )
    while len(list(streaming.iterdir())) < NUM_RANKS:
        assert not any(future.done() for future in futures)
        time.sleep(0.02)
    killed_at = time.monotonic()
    rank_processes().kill(lost_rank)
    with pytest.raises(BrokenProcessPool):
        futures.pop(lost_rank).result()
    for survivor in futures:
        output, ended_at, is_responsive = survivor.result()
        assert output.finish_reason is FinishReason.ERROR
        assert type(output.error) is RequestLostError
        assert "send the request again" in str(output.error)
        assert output.position > 0
        assert not is_responsive
        assert ended_at - killed_at < WITHIN_S
