from __future__ import annotations

import json

import pytest

from gptoss_ray.bench import ceilings
from gptoss_ray.bench.engine import EngineBench, run
from gptoss_ray.bench.engine_cases import DecodeCase
from gptoss_ray.bench.engine_start import start_here
from gptoss_ray.bench.synthetic_folder import synthetic_folder
from gptoss_ray.config import EngineConfig
from gptoss_ray.errors import ConfigError
from tests.support.backends import needs_native

CASES = (DecodeCase(1, 20), DecodeCase(3, 20), DecodeCase(1, 200))


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return synthetic_folder("tiny", cache=tmp_path_factory.mktemp("bench"))


@pytest.fixture
def quick_ceilings(monkeypatch):
    """Measured in this process: a new one has to import everything first."""

    def here(num_threads: int, *, num_bytes: int):
        return ceilings.measure_here(num_threads, num_bytes, 1)

    monkeypatch.setattr(ceilings, "measure", here)


def bench(checkpoint, engine: EngineConfig, **changes: object) -> EngineBench:
    small = {"prefill_tokens": (8, 40), "decode": CASES, "num_rounds": 2, "num_steps": 3}
    return EngineBench(
        checkpoint, engine, **(small | {"with_starts": False, "read_bytes": 1 << 22} | changes)
    )


def test_every_case_is_measured_in_every_round(checkpoint):
    notes: list[str] = []
    engine = EngineConfig(kernels="torch", max_num_batched_tokens=32)
    report = run(bench(checkpoint, engine), notes.append)
    assert [(each.num_tokens, len(each.seconds)) for each in report.prefill] == [(8, 2), (40, 2)]
    assert [each.case for each in report.decode] == list(CASES)
    assert all(
        [len(timings.seconds) for timings in each.rounds] == [3, 3] and min(each.rates()) > 0
        for each in report.decode
    )
    assert "round 2 of 2: decode, 3 stream(s) at 20" in notes


def test_figures_that_need_native_kernels_are_left_out_without_them(checkpoint):
    report = run(bench(checkpoint, EngineConfig(kernels="torch"), num_rounds=1))
    assert report.ceilings == () and all(result.inside is None for result in report.decode)
    document = json.loads(json.dumps(report.to_json()))
    assert document["ceilings"] == [] and document["inside_step"] == []
    assert document["kernels"]["name"] == "torch-reference"
    assert "percent_of_read" not in document["decode"][0]
    assert [row["tokens"] for row in document["prefill"]] == [8, 40]
    assert [(row["streams"], row["context"]) for row in document["decode"]] == [(1, 20), (3, 20), (1, 200)]
    assert document["memory"]["kv_cache_gb"] >= 0 and len(document["starts"]) == 1
    assert set(report.tables()) == {"starts", "memory after all rounds", "prompts", "decode"}


@needs_native
def test_native_kernels_are_held_against_the_machine(checkpoint, tmp_path, quick_ceilings):
    engine = EngineConfig(kernels="native", dense_weights="int8", packed_weights=str(tmp_path / "packed"))
    report = run(bench(checkpoint, engine))
    document = report.to_json()
    assert [row["when"] for row in document["ceilings"]] == ["before", "after round 1", "after round 2"]
    assert all(row["percent_of_read"] > 0 and row["mb_per_token"] > 0 for row in document["decode"])
    assert all(row["percent_of_dots"] > 0 for row in document["prefill"])
    assert all(0 < result.inside.outside_share < 1 for result in report.decode)
    one, three, _ = document["inside_step"]
    assert one["experts_per_layer"] == one["experts_expected"] == 4
    assert 4 < three["experts_per_layer"] <= 8
    assert len(document["others_cpus"]) == 2


@needs_native
def test_a_start_that_packs_is_told_from_one_that_finds_packed_weights(
    checkpoint, tmp_path, monkeypatch, quick_ceilings
):
    monkeypatch.setattr("gptoss_ray.bench.engine.start_in_child", lambda *args: start_here(*args)[1])
    engine = EngineConfig(kernels="native", packed_weights=str(tmp_path / "packed"))
    asked = bench(checkpoint, engine, with_starts=True, num_rounds=1, decode=())
    first, second, here = run(asked).starts
    assert first.kind.startswith("packs the weights") and "packs" not in second.kind + here.kind
    assert len(run(asked).starts) == 2


def test_a_start_in_a_process_of_its_own_is_measured(checkpoint):
    report = run(bench(checkpoint, EngineConfig(kernels="torch"), with_starts=True, num_rounds=1, decode=()))
    assert len(report.starts) == 2
    assert all(start.load_s > 0 and start.first_token_s > 0 for start in report.starts)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_rounds": 0}, "num_rounds is 0; it must be at least 1"),
        ({"num_steps": 0}, "num_steps is 0; it must be at least 1"),
        ({"prefill_tokens": (), "decode": ()}, "nothing to measure"),
    ],
)
def test_nothing_to_measure_is_refused(checkpoint, changes, message):
    with pytest.raises(ConfigError, match=message):
        bench(checkpoint, EngineConfig(), **changes)
