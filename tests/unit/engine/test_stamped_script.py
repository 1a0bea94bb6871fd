from __future__ import annotations

from itertools import count, islice
from types import SimpleNamespace

import pytest

from gptoss_ray.engine import stamped_script
from gptoss_ray.engine.stamped_script import StampedScript, read_stamps
from gptoss_ray.generation import GenerationRequest, SamplingParams


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """Each reading of the clock is half a second after the last."""
    moments = count(10.0, 0.5)
    monkeypatch.setattr(stamped_script, "time", SimpleNamespace(monotonic=lambda: next(moments)))


def request(request_id, max_tokens):
    return GenerationRequest(request_id, (1,), SamplingParams(max_tokens=max_tokens))


def test_an_answer_is_its_opening_and_then_one_token_for_ever():
    script = StampedScript((1, 2), 7)
    assert list(islice(script(request("a", 3)), 5)) == [1, 2, 7, 7, 7]


def test_the_moments_of_all_repeated_tokens_are_in_the_file_when_the_last_is_drawn(tmp_path):
    file = tmp_path / "stamps"
    answer = StampedScript((1, 2), 7, file)(request("a", 5))
    assert list(islice(answer, 4)) == [1, 2, 7, 7]
    assert not file.exists()
    assert next(answer) == 7
    assert read_stamps(file) == {"a": (10.0, 10.5, 11.0)}


def test_answers_of_one_time_keep_their_moments_apart(tmp_path):
    file = tmp_path / "stamps"
    script = StampedScript((), 7, file)
    for _ in zip(script(request("a", 2)), script(request("b", 2)), range(2), strict=False):
        pass
    assert read_stamps(file) == {"a": (10.0, 11.0), "b": (10.5, 11.5)}


def test_moments_are_read_as_exactly_as_they_were_written(tmp_path, monkeypatch):
    file = tmp_path / "stamps"
    monkeypatch.setattr(stamped_script, "time", SimpleNamespace(monotonic=lambda: 0.1 + 0.2))
    next(StampedScript((), 7, file)(request("a", 1)))
    assert read_stamps(file) == {"a": (0.1 + 0.2,)}
