import asyncio

import pytest
import ray
from ray.exceptions import ActorDiedError, RayTaskError

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import NotFoundError, UnavailableError
from gptoss_ray.serving import response_store_actor
from gptoss_ray.serving.response_store_actor import ActorStore, ResponseStoreActor, shared_store
from gptoss_ray.serving.responses.shared_store import LocalStore


class FakeMethod:
    """An actor's method, called in this process."""

    def __init__(self, call):
        self._call = call

    def remote(self, *args):
        return self._call(*args)


class FakeActor:
    """Has every method."""

    def __init__(self, call):
        self._call = call

    def __getattr__(self, name):
        return FakeMethod(self._call)


async def never(*_):
    await asyncio.Event().wait()


async def dies(*_):
    raise ActorDiedError()


async def works(*_):
    return True


@pytest.fixture
def actors(monkeypatch):
    """Take the place of Ray: each actor that is made calls what a test appends."""
    calls, made = [], []

    def find_or_make(name, _limits):
        made.append(name)
        return FakeActor(calls.pop(0) if calls else never)

    monkeypatch.setattr(response_store_actor, "_find_or_make", find_or_make)
    return calls, made


@pytest.mark.parametrize("fails", [never, dies])
async def test_a_lost_store_is_an_error_in_time_and_the_next_call_makes_another(actors, monkeypatch, fails):
    monkeypatch.setattr(response_store_actor, "CALL_TIMEOUT_S", 0.01)
    calls, made = actors
    calls += [fails, works]
    store = ActorStore("app", LimitsConfig())
    with pytest.raises(UnavailableError):
        await store.put(None)
    await store.touch()
    assert await store.put(None)
    assert len(made) == 2
    assert made[0] == made[1]


async def test_the_stores_own_errors_are_told_as_they_are(actors):
    async def refuses(*_):
        cause = NotFoundError("Response 'r' is not kept here.")
        raise RayTaskError("get", "", cause).as_instanceof_cause()

    actors[0].append(refuses)
    with pytest.raises(NotFoundError, match="not kept here") as caught:
        await ActorStore("app", LimitsConfig()).get("a", "r")
    assert type(caught.value) is NotFoundError


async def test_applications_and_bounds_have_stores_of_their_own(actors):
    for application, limits in (
        ("a", LimitsConfig()),
        ("b", LimitsConfig()),
        ("a", LimitsConfig(max_stored_responses=5)),
        ("a", LimitsConfig(max_messages=5)),
    ):
        ActorStore(application, limits)
    first, other, bounded, same = actors[1]
    assert len({first, other, bounded}) == 3
    assert same == first


async def test_where_nothing_is_kept_no_actor_is_made(actors):
    assert isinstance(shared_store("a", LimitsConfig(max_stored_responses=0)), LocalStore)
    assert actors[1] == []


async def test_a_store_that_nobody_touches_ends_itself(monkeypatch):
    killed = asyncio.Event()
    monkeypatch.setattr(response_store_actor, "TOUCH_S", 0.01)
    monkeypatch.setattr(ray, "kill", lambda _: killed.set())
    monkeypatch.setattr(ray, "get_runtime_context", lambda: type("Context", (), {"current_actor": None}))
    store = ResponseStoreActor(LimitsConfig())
    await store.touch()
    await asyncio.sleep(0.1)
    assert not killed.is_set()
    monkeypatch.setattr(response_store_actor, "LEFT_AFTER_S", 0.0)
    await asyncio.wait_for(killed.wait(), 10)
