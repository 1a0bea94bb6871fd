from __future__ import annotations

from gptoss_ray.bench.ep import EPResult, RankFigures, run
from gptoss_ray.config import ParallelConfig


def test_only_gaps_while_the_prompt_was_read_count_as_busy():
    prompt = RankFigures(0.0, prompt_from_s=10.0, prompt_until_s=14.0)
    stream = RankFigures(0.5, (1.0, 2.0, 3.0), (9.0, 10.5, 12.5, 13.5, 20.0))
    result = EPResult(2, 64, 16, (prompt, stream))
    assert result.quiet_gaps_s == [1.0, 1.0]
    assert result.busy_gaps_s == [2.0, 1.0]
    assert result.row()["prompt_s"] == 4.0
    assert result.row()["idle_cpu_percent"] == 50.0


def test_it_measures_a_group_of_processes():
    parallel = ParallelConfig(max_prefill_tokens_per_step=16)
    row = run(2, num_prompt_tokens=160, num_stream_tokens=5, parallel=parallel, idle_s=0.2).row()
    assert row["p99_ratio"] > 0
    assert row["prompt_s"] > 0
