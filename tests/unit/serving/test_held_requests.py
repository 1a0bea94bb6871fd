"""A model without a replica: requests are held, and what looks on starts none."""

from __future__ import annotations

import asyncio
import warnings

import pytest

from gptoss_ray.config import ScalingConfig, ServedModelConfig
from gptoss_ray.errors import OverloadedError, RequestLostError, UnavailableError
from gptoss_ray.generation import GenerationRequest, SamplingParams, TokenOutput
from gptoss_ray.serving.replica_directory import ReplicaDirectory, replica_directory
from gptoss_ray.serving.token_source import RequestMovesError

with warnings.catch_warnings():
    # Importing Serve warns of how Serve uses pydantic.
    warnings.simplefilter("ignore")
    from ray.exceptions import RayError
    from ray.serve.exceptions import DeploymentUnavailableError

    from gptoss_ray.serving import token_stream
    from gptoss_ray.serving.routed_call import RequestEnded, RequestQueued, RequestRouted
    from gptoss_ray.serving.token_stream import RoutedTokenSource, TokenStreams

REQUEST = GenerationRequest("r", (1,), SamplingParams(max_tokens=1))


class Call:
    """A routed call whose words come when a replica is there."""

    def __init__(self) -> None:
        self.words: asyncio.Queue[object] = asyncio.Queue()
        self.is_cancelled = False

    async def __anext__(self) -> object:
        return await self.words.get()

    def cancel(self) -> None:
        self.is_cancelled = True


class Answers:
    """What a broadcast brings; without a replica, Serve says that the deployment is not available."""

    def __init__(self, answers: list[object]) -> None:
        self._answers = answers

    async def results_async(self, *, timeout_s: float, return_exceptions: bool = False) -> list[object]:
        if not self._answers:
            raise DeploymentUnavailableError("EngineReplica")
        return self._answers


class Handle:
    """Of a deployment whose replicas give these answers."""

    deployment_name = "EngineReplica-m"

    def __init__(self, *answers: object) -> None:
        self.answers = list(answers)

    def broadcast(self, method: str, *args: object) -> Answers:
        return Answers(self.answers)


class Model:
    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, min_replicas: int = 0, hold_timeout_s: float = 60):
        self.handle, self.call, self.streams = Handle(), Call(), TokenStreams(4)
        config = ServedModelConfig(
            name="m",
            checkpoint="demo",
            hold_timeout_s=hold_timeout_s,
            scaling=ScalingConfig(min_replicas=min_replicas),
        )
        self.source = RoutedTokenSource(self.handle, self.streams, config)
        monkeypatch.setattr(self.source, "_call", lambda request: self.call)
        monkeypatch.setattr(self.streams, "follow", lambda route, rank_name: None)
        monkeypatch.setattr(self.streams, "abort", lambda request_id, rank: None)


async def test_a_request_is_held_until_a_replica_is_there(monkeypatch):
    model = Model(monkeypatch)
    first = asyncio.create_task(anext(model.source.generate(REQUEST)))
    await asyncio.sleep(0.02)
    assert not first.done()
    model.call.words.put_nowait(RequestRouted("rank"))
    await asyncio.sleep(0)
    model.streams._routes["r"].put(TokenOutput("r", 0, (5,)))
    assert (await first).token_ids == (5,)


async def test_a_request_is_lost_whose_rank_is_done_with_it_and_whose_last_output_never_comes(monkeypatch):
    monkeypatch.setattr(token_stream, "LAST_OUTPUT_TIMEOUT_S", 0.01)
    model = Model(monkeypatch)
    model.call.words.put_nowait(RequestRouted("rank"))
    outputs = model.source.generate(REQUEST)
    first = asyncio.create_task(anext(outputs))
    await asyncio.sleep(0.02)
    model.streams._routes["r"].put(TokenOutput("r", 0, (5,)))
    assert (await first).token_ids == (5,)
    model.call.words.put_nowait(RequestEnded())
    with pytest.raises(RequestLostError):
        await asyncio.wait_for(anext(outputs), 10)


async def test_a_request_for_which_none_comes_in_time_is_refused_and_given_up(monkeypatch):
    model = Model(monkeypatch, hold_timeout_s=0.01)
    with pytest.raises(UnavailableError, match=r"No replica of m was there within hold_timeout_s = 0\.01"):
        await anext(model.source.generate(REQUEST))
    assert model.call.is_cancelled


async def test_a_request_that_waits_in_a_replica_is_not_held_to_that_time(monkeypatch):
    model = Model(monkeypatch, hold_timeout_s=0.01)
    model.call.words.put_nowait(RequestQueued("a"))
    first = asyncio.create_task(anext(model.source.generate(REQUEST)))
    await asyncio.sleep(0.05)
    assert not first.done()
    model.call.words.put_nowait(OverloadedError("full"))
    with pytest.raises(OverloadedError):
        await first


async def test_a_model_without_replicas_is_ready_until_one_that_was_asked_for_does_not_come(monkeypatch):
    model = Model(monkeypatch, hold_timeout_s=0.01)
    assert await model.source.ready()
    with pytest.raises(UnavailableError):
        await anext(model.source.generate(REQUEST))
    assert not await model.source.ready()
    model.call.words.put_nowait(OverloadedError("full"))
    with pytest.raises(OverloadedError):
        await anext(model.source.generate(REQUEST))
    assert await model.source.ready()


async def test_without_replicas_there_is_nothing_to_count_and_nothing_to_abort(monkeypatch):
    model = Model(monkeypatch)
    assert await model.source.stats() == []
    assert await model.source.abort("key") == 0


async def test_one_lost_replica_does_not_speak_for_those_that_live(monkeypatch):
    model = Model(monkeypatch)
    model.handle.answers = [RuntimeError("lost"), True]
    assert await model.source.ready()
    model.handle.answers = [RayError("lost")]
    assert not await model.source.ready()


async def test_a_request_that_waits_at_a_full_replica_moves_once_another_has_room(monkeypatch):
    model = Model(monkeypatch)
    replicas = replica_directory(Handle.deployment_name)
    replicas.note({"a": 12, "b": 4}, num_seats=4)
    monkeypatch.setattr(token_stream, "LOOK_AROUND_S", 0.01)
    model.call.words.put_nowait(RequestQueued("a"))
    first = asyncio.create_task(anext(model.source.generate(REQUEST)))
    await asyncio.sleep(0.05)
    assert not first.done()
    replicas.note({"a": 12, "b": 3}, num_seats=4)
    with pytest.raises(RequestMovesError):
        await first
    assert model.call.is_cancelled


async def test_whoever_does_not_wait_at_a_replica_moves_nowhere(monkeypatch):
    model = Model(monkeypatch)
    replica_directory(Handle.deployment_name).note({"a": 12, "b": 0}, num_seats=4)
    monkeypatch.setattr(token_stream, "LOOK_AROUND_S", 0.01)
    first = asyncio.create_task(anext(model.source.generate(REQUEST)))
    await asyncio.sleep(0.05)
    assert not first.done()
    first.cancel()


@pytest.mark.parametrize(
    ("num_live", "has_room"),
    [
        ({"a": 9, "b": 4}, False),
        ({"a": 9, "b": 3}, True),
        ({"a": 2, "b": 3}, False),
        ({"a": 3, "b": 3}, False),
        ({"a": 9}, False),
        ({}, False),
    ],
)
def test_room_is_a_free_seat_at_a_replica_that_is_less_busy(num_live, has_room):
    directory = ReplicaDirectory()
    directory.note(num_live, num_seats=4)
    assert directory.has_room_beside("a") == has_room


async def test_a_refusal_holds_for_the_next_request_without_another_call(monkeypatch):
    model = Model(monkeypatch)
    model.call.words.put_nowait(OverloadedError("full"))
    with pytest.raises(OverloadedError):
        await anext(model.source.generate(REQUEST))
    monkeypatch.delattr(model.source, "_call")
    monkeypatch.setattr(RoutedTokenSource, "_call", lambda self, request: pytest.fail("a replica was asked"))
    with pytest.raises(OverloadedError, match="full"):
        await anext(model.source.generate(REQUEST))
    assert not model.streams._routes
