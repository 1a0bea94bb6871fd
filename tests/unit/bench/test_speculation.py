from __future__ import annotations

from types import SimpleNamespace

import pytest

from gptoss_ray.bench import speculation
from gptoss_ray.bench.speculation import MODES, ModeResult, RightAtTimes, random_workloads, run
from gptoss_ray.checkpoint.reader import CheckpointReader
from gptoss_ray.checkpoint.synthetic import tiny_config, write_checkpoint
from gptoss_ray.config import EngineConfig
from gptoss_ray.engine.engine import Engine
from gptoss_ray.errors import GptossError
from gptoss_ray.model.transformer import Transformer

CONFIG = EngineConfig()


@pytest.fixture(scope="module")
def transformer(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    write_checkpoint(folder, tiny_config())
    return Transformer.load(CheckpointReader.open(folder), CONFIG)


def test_every_mode_answers_alike_and_drafts_make_more_tokens_a_step(transformer):
    workloads = random_workloads(transformer.config.vocab_size, (1, 3), (0.9,), 12)
    rows = run(transformer, CONFIG, workloads, num_rounds=1)
    assert [(row["streams"], row["speculation"]) for row in rows] == [
        (streams, mode) for streams in (1, 3) for mode in MODES
    ]
    plain, _, everything = rows[:3]
    assert (plain["tokens_per_step"], plain["drafted"], plain["ratio"]) == (1.0, 0, 1.0)
    assert everything["tokens_per_step"] > 1.0
    assert 50 < everything["accepted_percent"] <= 100


def test_drafts_that_change_an_answer_are_a_fault_and_no_figure(transformer, monkeypatch):
    answer, calls = speculation._answer, []

    def wrong(engine: Engine, workload):
        answers, seconds = answer(engine, workload)
        calls.append(engine)
        return (answers | {"r0": (1,)} if len(calls) > 2 else answers), seconds

    monkeypatch.setattr(speculation, "_answer", wrong)
    workloads = random_workloads(transformer.config.vocab_size, (1,), (0.5,), 4)
    with pytest.raises(GptossError, match="otherwise"):
        run(transformer, CONFIG, workloads, num_rounds=1)


def test_ratios_are_those_of_rounds():
    plain = ModeResult("w", 1, "off", [10.0, 20.0, 40.0], 30, 30)
    drafts = ModeResult("w", 1, "auto", [20.0, 30.0, 40.0], 30, 20, 20, 10)
    row = drafts.row(plain)
    assert (row["ratio"], row["ratios"], row["tokens_per_step"]) == (1.5, "1.00-2.00", 1.5)
    assert row["accepted_percent"] == 50.0


def test_a_drafter_is_right_as_often_as_it_is_told_to_be():
    answers = {"r": tuple(range(1000))}
    sequence = SimpleNamespace(request_id="r", num_output_tokens=0)
    [draft] = RightAtTimes(answers, 0.7, 5000).propose([sequence], [1000])
    num_right = sum(map(int.__eq__, draft, answers["r"]))
    assert 650 < num_right < 750
