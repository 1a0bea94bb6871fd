import asyncio

from gptoss_ray.config import LimitsConfig
from gptoss_ray.serving.responses.shared_store import LocalStore, bounded_store
from gptoss_ray.serving.responses.stored_response import Progress, StoredResponse

FOR_EVER_S = 60.0


def make_store():
    return LocalStore(bounded_store(LimitsConfig()))


def running(name="r"):
    return StoredResponse("a", name, b'{"status":"queued"}', (), owner="ingress", keeps_events=True)


def progress(*events):
    return Progress(events, b'{"status":"in_progress"}', (), is_end=False)


async def test_a_reader_waits_for_the_next_event_and_no_longer():
    store = make_store()
    await store.put(running())
    reading = asyncio.create_task(store.read_events("a", "r", -1, FOR_EVER_S))
    await asyncio.sleep(0.01)
    assert not reading.done()
    await store.advance("a", "r", progress(b"{}"))
    assert (await reading).events == (b"{}",)
    assert (await store.read_events("a", "r", 0, 0.01)).events == ()


async def test_readers_and_the_owner_are_woken_by_a_cancel():
    store = make_store()
    await store.put(running())
    readers = [asyncio.create_task(store.read_events("a", "r", -1, FOR_EVER_S)) for _ in range(3)]
    owner = asyncio.create_task(store.renew("ingress", {"r"}, FOR_EVER_S))
    await asyncio.sleep(0.01)
    await store.cancel("a", "r")
    assert all(page.is_end for page in await asyncio.gather(*readers))
    assert await owner == {"r"}


async def test_the_owner_is_woken_by_a_deletion():
    store = make_store()
    await store.put(running())
    owner = asyncio.create_task(store.renew("ingress", {"r"}, FOR_EVER_S))
    await asyncio.sleep(0.01)
    await store.delete("a", "r")
    assert await owner == {"r"}


async def test_nothing_stays_of_those_who_waited():
    store = make_store()
    await store.put(running())
    await store.read_events("a", "r", -1, 0.001)
    await store.renew("ingress", {"r"}, 0.001)
    assert not store._changes
