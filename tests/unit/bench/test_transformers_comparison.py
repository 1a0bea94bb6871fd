from __future__ import annotations

import json

import pytest
import torch

from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.gpu_cases import GpuBench, GpuStep
from gptoss_ray.bench.gpu_plot import plot
from gptoss_ray.bench.transformers_comparison import ComparedStep, Comparison, compare
from gptoss_ray.bench.transformers_memory import plan_comparison
from gptoss_ray.bench.transformers_under_test import PeerUsage, PeerUsages, Trial, find_fastest
from gptoss_ray.checkpoint.model_config import ModelConfig
from gptoss_ray.planner.gpu_steps import Ceilings

SLOW, FAST, BROKEN = (PeerUsage(name, "grouped_mm") for name in ("slow", "fast", "broken"))
USAGES = PeerUsages(prompts=(SLOW, FAST), decode=(SLOW, BROKEN, FAST))
CASE = DecodeCase(8, 1024)


class Recorded:
    """A side that takes the seconds it is told and writes down its turns."""

    def __init__(self, name, turns, seconds=1.0):
        self.name, self.turns, self.seconds = name, turns, seconds

    def prefill(self, num_tokens):
        self.turns.append((self.name, num_tokens))
        return self.seconds

    def steps(self, case, num_steps):
        self.turns.append((self.name, case))
        return [self.seconds] * num_steps


class RecordedPeer(Recorded):
    """Takes a second, or two by the slow way."""

    def use(self, usage):
        if usage is BROKEN:
            raise ValueError("no sinks here\nand more that nobody wants to read")
        self.seconds = 2.0 if usage is SLOW else 1.0

    def free(self):
        self.turns.append((self.name, "free"))


def run(turns=None, usages=USAGES, num_rounds=2):
    turns = [] if turns is None else turns
    return compare(
        Recorded("ours", turns, 0.1),
        RecordedPeer("theirs", turns),
        prompts=(2048,),
        cases=(CASE,),
        usages=usages,
        num_rounds=num_rounds,
        num_steps=4,
    )


def test_both_sides_take_turns_and_their_memory_is_freed_after_each():
    turns = []
    run(turns)
    rounds = turns[-12:]
    one = [("ours", 2048), ("theirs", 2048), ("theirs", "free"), ("ours", CASE), ("theirs", CASE)]
    assert rounds == [*one, ("theirs", "free")] * 2


def test_the_fastest_way_takes_part_and_one_that_fails_is_told():
    prompt, decode = run()
    assert prompt.trial == Trial(FAST, {})
    assert decode.trial == Trial(FAST, {BROKEN: "ValueError: no sinks here"})
    assert decode.theirs_s == [1.0, 1.0]
    assert decode.ours_s == pytest.approx([0.1, 0.1])


def test_a_trial_counts_the_second_turn_because_the_first_compiles():
    seconds = iter([9.0, 1.0, 2.0, 2.0])

    class Compiled(RecordedPeer):
        def prefill(self, num_tokens):
            return next(seconds)

    (step,) = compare(
        Recorded("ours", []),
        Compiled("theirs", []),
        prompts=(5,),
        cases=(),
        usages=USAGES,
        num_rounds=0,
        num_steps=1,
    )
    assert step.trial.fastest is SLOW


def test_a_row_gives_tokens_a_second_of_both_and_ratios_of_the_same_round():
    ours_s, theirs_s = [0.01, 0.02, 0.01], [0.1, 0.1, 0.3]
    step = ComparedStep("decode", 8, 1024, Trial(FAST, {}), ours_s, theirs_s)
    row = step.row()
    assert row["gptoss_ray"] == "800 (400 to 800)"
    assert row["transformers"] == "80 (26.67 to 80)"
    assert row["ratio"] == "10 (5 to 30)"
    assert row["transformers_by"] == "fast, grouped_mm, dynamic cache"


def test_where_no_way_works_ours_is_measured_alone_and_the_tables_say_why():
    steps = run(usages=PeerUsages(prompts=(FAST,), decode=(BROKEN,)))
    assert steps[1].theirs_s == []
    assert len(steps[1].ours_s) == 2
    bench = GpuBench("gpt-oss-20b", ModelConfig.published("gpt-oss-20b"))
    tables = Comparison(plan_comparison(bench, "bfloat16", 10**12), "5.0", steps, 10**9).tables()
    used, compared, failed = tables.values()
    assert used[0]["version"] == "5.0"
    assert used[0]["experts"] == "bfloat16"
    assert compared[1]["transformers_by"] == "no way worked"
    assert compared[1]["ratio"] == ""
    assert failed[0]["why"] == "ValueError: no sinks here"
    json.dumps([tables, [step.document() for step in steps]])


def test_of_ways_that_all_fail_none_is_the_fastest():
    def fail(usage):
        raise torch.OutOfMemoryError("none left")

    trial = find_fastest([SLOW, FAST], fail)
    assert trial.fastest is None
    assert set(trial.failures) == {SLOW, FAST}


def test_a_card_is_offered_flex_attention_both_caches_and_experts_that_stay_grouped():
    usages = PeerUsages.on(torch.device("cuda"), "bfloat16", has_hub_kernels=False)
    assert {usage.attention for usage in usages.prompts} == {"eager", "flex_attention"}
    assert len(usages.decode) == len(set(usages.decode)) == 8
    assert {usage.cache for usage in usages.decode} == {"dynamic", "static"}
    with_hub = PeerUsages.on(torch.device("cuda"), "mxfp4", has_hub_kernels=True)
    assert {usage.experts for usage in with_hub.decode} == {"mxfp4"}
    assert "kernels-community/vllm-flash-attn3" in {usage.attention for usage in with_hub.prompts}


def test_a_cpu_is_offered_only_what_knows_sinks_there():
    usages = PeerUsages.on(torch.device("cpu"), "bfloat16", has_hub_kernels=True)
    assert {usage.attention for usage in (*usages.prompts, *usages.decode)} == {"eager"}


def test_a_plot_has_a_line_of_transformers_for_streams_and_for_prompts(tmp_path):
    bench = GpuBench("gpt-oss-20b", ModelConfig.published("gpt-oss-20b"))
    steps = [GpuStep.of_decode(bench, CASE, (0.01,)), GpuStep.of_prompt(bench, 2048, (0.1,))]
    path = tmp_path / "plot.svg"
    plot("gpt-oss-20b", steps, Ceilings(1e12, 1e15), path, compared=run())
    text = path.read_text()
    assert text.count("transformers -->") == 2
    assert "never run on a GPU" not in text
