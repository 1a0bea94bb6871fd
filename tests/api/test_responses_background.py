"""Responses in the background: begun, watched, resumed, cancelled, and never left without an end."""

import asyncio
from contextvars import ContextVar

import httpx
import pytest

from gptoss_ray.config import LimitsConfig
from gptoss_ray.errors import OverloadedError, UnavailableError
from gptoss_ray.serving.responses import background
from gptoss_ray.serving.responses.shared_store import LocalStore, bounded_store
from gptoss_ray.serving.responses.store import LEASE_S, ResponseStore
from tests.support.ingresses import ANSWER, encoding, http_client, http_server, make_ingress, tokens
from tests.support.responses import URL, body, check_events, create, read_events, stream, texts
from tests.support.scripted_source import Endless, Pause, ScriptedSource

START = tokens("<|channel|>final<|message|>Count")
WORD = encoding().encode("word")[0]
TALKING = [*START, Endless(WORD)]
SILENT = [*START, Endless()]


async def until(http, response_id, *statuses):
    """Return a response once it has one of these states."""
    while True:
        response = (await http.get(f"{URL}/{response_id}")).json()
        if response["status"] in statuses:
            return response
        await asyncio.sleep(0.005)


async def resumed(http, response_id, **params):
    response = await http.get(f"{URL}/{response_id}", params={"stream": "true", **params})
    assert response.status_code == 200, response.text
    return read_events(response.text)


def shared_ingresses(script, num_ingresses=2, store=None, **limits):
    store = store or LocalStore(bounded_store(LimitsConfig()))
    return [make_ingress(script, store=store, limits=LimitsConfig(**limits)) for _ in range(num_ingresses)]


async def test_a_background_response_is_queued_at_once_and_comes_to_its_end():
    async with http_client(make_ingress([Pause(0.02), *tokens(ANSWER)])) as http:
        queued = await create(http, background=True)
        assert (queued["status"], queued["background"], queued["output"]) == ("queued", True, [])
        done = await until(http, queued["id"], "completed")
    assert texts(done) == [("reasoning", "17 and 25."), ("final_answer", "It is 42.")]
    assert done["usage"]["output_tokens"] > 0


async def test_the_items_that_are_complete_are_told_while_the_rest_is_made():
    script = [*tokens(ANSWER), Endless()]
    reasoning, _, _ = ANSWER.partition("It is")
    script = [*tokens(f"{reasoning}It"), Endless()]
    async with http_client(make_ingress(script)) as http:
        queued = await create(http, background=True)
        while not (response := (await http.get(f"{URL}/{queued['id']}")).json())["output"]:
            await asyncio.sleep(0.005)
        assert response["status"] == "in_progress"
        assert texts(response) == [("reasoning", "17 and 25.")]
        unfinished = await http.post(URL, json=body(previous_response_id=queued["id"]))
        await http.post(f"{URL}/{queued['id']}/cancel")
    assert unfinished.status_code == 400
    assert unfinished.json()["error"]["param"] == "previous_response_id"


async def test_a_streamed_background_response_can_be_read_again_from_any_event_by_any_ingress():
    one, other = shared_ingresses(tokens(ANSWER))
    async with http_client(one) as first, http_client(other) as second:
        events = await stream(first, background=True)
        assert [event["type"] for event in events[:3]] == [
            "response.created",
            "response.queued",
            "response.in_progress",
        ]
        response_id = events[0]["response"]["id"]
        for http in (first, second):
            assert await resumed(http, response_id) == events
            for after in (0, 7, len(events) - 1, len(events) + 5):
                assert await resumed(http, response_id, starting_after=after) == events[after + 1 :]


async def test_a_resumed_stream_goes_on_live():
    one, other = shared_ingresses([*START, Pause(0.1), *tokens("<|return|>")])
    async with http_client(one) as first, http_client(other) as second:
        response_id = (await create(first, background=True, stream=False))["id"]
        refused = await second.get(f"{URL}/{response_id}", params={"stream": "true"})
        assert refused.status_code == 400
        assert refused.json()["error"]["param"] == "stream"
        reading = asyncio.create_task(stream(first, background=True))
        while not one.responses._background._tasks.keys() - {response_id}:
            await asyncio.sleep(0.001)
        (streamed_id,) = one.responses._background._tasks.keys() - {response_id}
        follower = await resumed(second, streamed_id)
        assert follower == await reading
    check_events(follower)


def test_a_client_that_leaves_stops_nothing_in_the_background():
    source = ScriptedSource([*START, Pause(0.3), *tokens("<|return|>")])
    with http_server(make_ingress(source)) as url, httpx.Client(base_url=url) as http:
        with http.stream("POST", URL, json=body(stream=True, background=True)) as response:
            first = next(response.iter_text())
        response_id = read_events(first.partition("\n\n")[0] + "\n\n")[0]["response"]["id"]
        with http.stream("GET", f"{URL}/{response_id}?stream=true") as response:
            events = read_events("".join(response.iter_text()))
    assert events[-1]["type"] == "response.completed"


REQUEST = ContextVar("request", default="none")


async def test_work_in_the_background_has_nothing_of_the_context_that_began_it():
    contexts = []

    def script(_):
        contexts.append(REQUEST.get())
        return tokens(ANSWER)

    class WatchedStore(LocalStore):
        async def renew(self, *args):
            contexts.append(REQUEST.get())
            return await super().renew(*args)

    store = WatchedStore(bounded_store(LimitsConfig()))
    async with http_client(make_ingress(ScriptedSource(script), store=store)) as http:
        REQUEST.set("mine")  # As Ray does, which ends all calls of a request that is cancelled.
        queued = await create(http, background=True)
        await until(http, queued["id"], "completed")
    assert contexts == ["none", "none"]


@pytest.mark.parametrize("script", [TALKING, SILENT, [Endless()]])
async def test_any_ingress_cancels_and_the_work_stops_at_once(script):
    source = ScriptedSource(script)
    one, other = shared_ingresses(source)
    async with http_client(one) as first, http_client(other) as second:
        queued = await create(first, background=True)
        while not source.open_ids:
            await asyncio.sleep(0.001)
        for http in (second, first):  # Again is the same.
            cancelled = await http.post(f"{URL}/{queued['id']}/cancel")
            assert cancelled.status_code == 200
            assert cancelled.json()["status"] == "cancelled"
        await source.wait_until_closed()
        assert (await first.get(f"{URL}/{queued['id']}")).json()["status"] == "cancelled"


async def test_a_cancelled_stream_ends_with_an_event():
    (ingress,) = shared_ingresses(TALKING, 1)
    async with http_client(ingress) as http:
        reading = asyncio.create_task(stream(http, background=True))
        while not ingress.responses._background._tasks:
            await asyncio.sleep(0.001)
        (response_id,) = ingress.responses._background._tasks
        await until(http, response_id, "in_progress")
        await http.post(f"{URL}/{response_id}/cancel")
        events = await reading
    assert events[-1]["type"] == "response.failed"
    assert events[-1]["response"]["status"] == "cancelled"


async def test_what_has_ended_stays_as_it_is_and_what_is_not_in_the_background_is_not_cancelled():
    async with http_client(make_ingress(tokens(ANSWER))) as http:
        queued = await create(http, background=True)
        done = await until(http, queued["id"], "completed")
        cancelled = await http.post(f"{URL}/{queued['id']}/cancel")
        assert cancelled.json() == done
        foreground = await create(http)
        refused = await http.post(f"{URL}/{foreground['id']}/cancel")
    assert refused.status_code == 400


async def test_deleting_a_response_stops_its_work():
    source = ScriptedSource(SILENT)
    async with http_client(make_ingress(source)) as http:
        queued = await create(http, background=True)
        while not source.open_ids:
            await asyncio.sleep(0.001)
        await http.delete(f"{URL}/{queued['id']}")
        await source.wait_until_closed()
        assert (await http.get(f"{URL}/{queued['id']}")).status_code == 404


async def test_only_so_many_work_in_the_background_at_once():
    ingress = make_ingress(SILENT, limits=LimitsConfig(max_background_responses=1))
    async with http_client(ingress) as http:
        queued = await create(http, background=True)
        refused = await http.post(URL, json=body(background=True))
        assert refused.status_code == 429
        assert int(refused.headers["retry-after"]) >= 1
        await http.post(f"{URL}/{queued['id']}/cancel")
        while ingress.responses._background._tasks:
            await asyncio.sleep(0.001)
        again = await create(http, background=True)
        await http.post(f"{URL}/{again['id']}/cancel")


async def test_none_at_all_is_a_wrong_request():
    ingress = make_ingress(SILENT, limits=LimitsConfig(max_background_responses=0))
    async with http_client(ingress) as http:
        refused = await http.post(URL, json=body(background=True))
    assert refused.status_code == 400
    assert refused.json()["error"]["param"] == "background"


@pytest.mark.parametrize(
    ("error", "code"),
    [(OverloadedError("Full."), "rate_limit_exceeded"), (UnavailableError("No."), "server_error")],
)
async def test_a_refusal_of_the_engine_is_a_failed_response(error, code):
    async with http_client(make_ingress([error])) as http:
        events = await stream(http, background=True)
        kept = (await http.get(f"{URL}/{events[0]['response']['id']}")).json()
    assert events[-1]["type"] == "response.failed"
    assert kept == events[-1]["response"]
    assert kept["error"] == {"code": code, "message": error.message}


class Clock:
    """Time that a test moves."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


async def test_the_responses_of_an_ingress_that_died_fail():
    clock = Clock()
    store = LocalStore(ResponseStore(max_responses=9, max_bytes=1 << 20, max_age_s=999, clock=clock))
    one, other = shared_ingresses(SILENT, store=store)
    async with http_client(one) as first, http_client(other) as second:
        queued = await create(first, background=True)
        response_id = queued["id"]
        await until(second, response_id, "in_progress")
        # As a process that dies: nothing is told to anybody.
        runs = one.responses._background
        runs._renewing.cancel()
        clock.now_s = LEASE_S + 1
        failed = (await second.get(f"{URL}/{response_id}")).json()
        assert failed["status"] == "failed"
        assert failed["error"]["code"] == "server_error"
        for task in list(runs._tasks.values()):
            task.cancel()


class CuttableStore(LocalStore):
    """A store that can be made unreachable."""

    is_lost = False

    async def read_events(self, *args):
        if self.is_lost:
            raise UnavailableError("The store of responses cannot be reached now; try again.")
        return await super().read_events(*args)

    async def advance(self, *args):
        if self.is_lost:
            raise UnavailableError("The store of responses cannot be reached now; try again.")
        return await super().advance(*args)


async def test_losing_the_store_ends_the_work_and_its_readers_with_an_event(monkeypatch):
    monkeypatch.setattr(background, "RENEW_S", 0.01)
    clock = Clock()
    store = CuttableStore(ResponseStore(max_responses=9, max_bytes=1 << 20, max_age_s=999, clock=clock))
    source = ScriptedSource(TALKING)
    (ingress,) = shared_ingresses(source, 1, store=store)
    async with http_client(ingress) as http:
        reading = asyncio.create_task(http.post(URL, json=body(stream=True, background=True)))
        other = await create(http, background=True)
        await until(http, other["id"], "in_progress")
        while not (others := ingress.responses._background._tasks.keys() - {other["id"]}):
            await asyncio.sleep(0.001)
        (response_id,) = others
        await until(http, response_id, "in_progress")
        store.is_lost = True
        events = read_events((await reading).text)
        assert events[-1]["type"] == "response.failed"
        assert events[-1]["response"]["status"] == "failed"
        await source.wait_until_closed(2)
        # The store comes back; the ingress lives, and works on it no more.
        store.is_lost = False
        clock.now_s = LEASE_S + 1
        assert (await until(http, response_id, "failed", "in_progress"))["status"] == "failed"
