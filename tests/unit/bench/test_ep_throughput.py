from __future__ import annotations

import pytest

from gptoss_ray.bench.ep_throughput import Arrangement, EPThroughputBench, RankSteps, run
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.config import EngineConfig
from gptoss_ray.errors import ConfigError


def test_the_row_holds_the_median_round_against_the_rank_alone():
    def rounds(*step_s: float) -> tuple[RankSteps, ...]:
        return tuple(RankSteps((seconds, seconds), (seconds / 10, seconds / 20)) for seconds in step_s)

    alone = Arrangement(1, 2, 16, (rounds(0.5, 1.0, 0.4),))
    group = Arrangement(2, 1, 16, (rounds(0.625, 0.1, 9.0), rounds(0.625, 0.1, 9.0)))
    row = group.row(alone)
    assert (alone.tokens_per_s, row["tokens_per_s"], row["ratio"]) == (32.0, 25.6, 0.8)
    assert row["dispatch_and_combine_percent"] == 7.5


@pytest.mark.parametrize(
    ("name", "num_threads", "num_streams"), [("num_streams", 2, 3), ("num_threads", 3, 4)]
)
def test_what_cannot_be_shared_out_evenly_is_refused(tmp_path, name, num_threads, num_streams):
    with pytest.raises(ConfigError, match=name):
        EPThroughputBench(tmp_path, EngineConfig(num_threads=num_threads), num_streams=num_streams)


def test_both_arrangements_are_measured(tmp_path):
    write_checkpoint(tmp_path / "tiny", tiny_config())
    bench = EPThroughputBench(
        tmp_path / "tiny", EngineConfig(num_threads=2), num_streams=4, context=20, num_rounds=1, num_steps=3
    )
    alone, group = run(bench)
    assert [len(alone.ranks), len(group.ranks)] == [1, 2]
    assert alone.exchange_share == 0.0 < group.exchange_share < 1.0
    assert alone.tokens_per_s > 0 < group.tokens_per_s
