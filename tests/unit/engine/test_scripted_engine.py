from __future__ import annotations

from itertools import count

import pytest

from gptoss_ray.engine import scripted_engine
from gptoss_ray.engine.scripted_engine import ScriptedEngine
from gptoss_ray.errors import InvalidRequestError
from gptoss_ray.generation import FinishReason, GenerationRequest, SamplingParams
from tests.support.engine_runs import take


def request(request_id="r", prompt=(7, 8), *, emitted=(), **params):
    return GenerationRequest(request_id, prompt, SamplingParams(**params), tuple(emitted))


def play(engine, *requests):
    """Submit all and step until none is left, as a rank does."""
    for each in requests:
        engine.submit(each)
    answers = {}
    num_emitted = {each.request_id: len(each.emitted_token_ids) for each in requests}
    while (agreement := engine.agree()).runs:
        take(answers, engine.run(agreement), num_emitted)
    return answers


def test_every_request_gets_its_script_a_token_a_step():
    engine = ScriptedEngine(lambda request: range(request.prompt_token_ids[0], 100))
    answers = play(engine, request("a", (1,), max_tokens=3), request("b", (50,), max_tokens=2))
    assert answers["a"].token_ids == (1, 2, 3)
    assert answers["b"].token_ids == (50, 51)
    assert answers["a"].finish_reason is FinishReason.LENGTH
    stats = engine.stats()
    assert (stats.num_steps, stats.num_generation_tokens, stats.num_running) == (3, 5, 0)


def test_a_stop_token_and_the_end_of_the_script_end_a_request():
    engine = ScriptedEngine(lambda request: [1, 2, 3])
    stopped = play(engine, request(stop_token_ids=(2,), max_tokens=9))["r"]
    assert (stopped.token_ids, stopped.finish_reason) == ((1, 2), FinishReason.STOP)
    ended = play(engine, request(max_tokens=9))["r"]
    assert (ended.token_ids, ended.finish_reason) == ((1, 2, 3), FinishReason.LENGTH)


def test_a_resumed_request_goes_on_behind_its_emitted_tokens():
    engine = ScriptedEngine(lambda request: count())
    assert play(engine, request(emitted=(0, 1), max_tokens=4))["r"].token_ids == (2, 3)


def test_log_probabilities_come_only_where_they_are_asked_for():
    engine = ScriptedEngine(lambda request: count())
    answers = play(
        engine, request("a", max_tokens=2), request("b", max_tokens=2, logprobs=1, prompt_logprobs=1)
    )
    assert (answers["a"].logprobs, answers["a"].prompt_logprobs) == ((), ())
    assert [len(entry.top) for entry in answers["b"].logprobs] == [1, 1]
    assert answers["b"].prompt_logprobs[0] is None
    assert len(answers["b"].prompt_logprobs) == 2


def test_a_request_without_output_has_its_prompt_scored_alone():
    engine = ScriptedEngine(lambda request: count())
    answer = play(engine, request(max_tokens=0, prompt_logprobs=1))["r"]
    assert (answer.token_ids, answer.finish_reason) == ((), FinishReason.LENGTH)
    assert len(answer.prompt_logprobs) == 2


def test_an_aborted_request_says_no_more_and_an_id_is_used_once_at_a_time():
    engine = ScriptedEngine(lambda request: count())
    engine.submit(request(max_tokens=9))
    with pytest.raises(InvalidRequestError, match="in use"):
        engine.submit(request(max_tokens=9))
    assert engine.abort("r")
    assert not engine.abort("r")
    assert not engine.agree().runs


class Clock:
    """Stands still but for sleeps and what a test adds to `now_s`."""

    now_s = 100.0

    def monotonic(self):
        return self.now_s

    def sleep(self, seconds):
        self.now_s += seconds


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(scripted_engine, "time", clock)
    return clock


def steps(engine, clock, works_s):
    """Step with so much work of others behind each step; return when each step ended."""
    ends_s = []
    for work_s in works_s:
        engine.run(engine.agree())
        ends_s.append(clock.now_s)
        clock.now_s += work_s
    return ends_s


def test_steps_end_at_a_steady_rate_whatever_is_done_between_them(clock):
    engine = ScriptedEngine(lambda request: count(), step_s=0.25)
    engine.submit(request(max_tokens=9))
    assert steps(engine, clock, (0.125, 0.0625, 0, 0.1875)) == [100.25, 100.5, 100.75, 101.0]


def test_a_step_after_a_pause_takes_its_whole_time_and_none_is_made_up_for(clock):
    engine = ScriptedEngine(lambda request: count(), step_s=0.25)
    engine.submit(request(max_tokens=9))
    assert steps(engine, clock, (1.0, 0, 0)) == [100.25, 101.5, 101.75]
