import json
from dataclasses import replace

import pytest

from gptoss_ray.errors import InvalidRequestError, NotFoundError
from gptoss_ray.serving.responses.store import LEASE_S, MAX_DROPPED_AGES, ResponseStore
from gptoss_ray.serving.responses.stored_response import MAX_PAGE_BYTES, Progress, StoredItem, StoredResponse
from gptoss_ray.serving.responses.tenant_shelf import ENTRY_BYTES

EVENTS = (b'{"sequence_number":0}', b'{"sequence_number":1}')


class Clock:
    """Time that a test moves."""

    def __init__(self):
        self.now_s = 0.0

    def __call__(self):
        return self.now_s


def make_store(clock=None, **bounds):
    bounds = {"max_responses": 100, "max_bytes": 1 << 20, "max_age_s": 1000.0, **bounds}
    return ResponseStore(**bounds, clock=clock or Clock())


def response(name, tenant="a", size=0, **fields):
    state = {"id": name, "status": "queued" if fields.get("owner") else "completed", "x": "x" * size}
    return StoredResponse(
        tenant,
        name,
        json.dumps(state).encode(),
        (StoredItem(f"in-{name}", json.dumps({"id": f"in-{name}"}).encode()),),
        (StoredItem(f"out-{name}", json.dumps({"id": f"out-{name}"}).encode()),),
        **fields,
    )


def running(name, owner="ingress", **fields):
    return replace(response(name, owner=owner, **fields), output=())


def progress(*events, status="in_progress", is_end=False, output=()):
    items = tuple(StoredItem(name, json.dumps({"id": name}).encode()) for name in output)
    return Progress(events, json.dumps({"status": status}).encode(), items, is_end)


def kept(store, names, tenant="a"):
    found = set()
    for name in names:
        try:
            store.get(tenant, name)
        except NotFoundError:
            continue
        found.add(name)
    return found


def test_a_response_is_of_its_tenant_alone():
    store = make_store()
    assert store.put(response("r"))
    assert store.get("a", "r").object()["output"] == [{"id": "out-r"}]
    for lookup in (store.get, store.cancel, store.delete):
        with pytest.raises(NotFoundError):
            lookup("b", "r")
    assert store.find_items("b", ["in-r"]) == {}


def test_the_least_recently_used_goes_first():
    store = make_store(max_responses=3)
    for name in "abc":
        store.put(response(name))
    store.get("a", "a")
    store.put(response("d"))
    assert kept(store, "abcd") == {"a", "c", "d"}


def test_bytes_are_bounded_and_counted_exactly():
    store = make_store(max_bytes=10 * ENTRY_BYTES)
    for number in range(50):
        assert store.put(response(str(number), size=ENTRY_BYTES * (number % 4)))
        assert store.num_bytes <= 10 * ENTRY_BYTES
    for number in range(50):
        if kept(store, [str(number)]):
            store.delete("a", str(number))
    assert (len(store), store.num_bytes) == (0, 0)


def test_one_that_fits_nowhere_drops_no_other():
    store = make_store(max_bytes=10 * ENTRY_BYTES)
    store.put(response("small"))
    assert not store.put(response("large", size=20 * ENTRY_BYTES))
    assert kept(store, ["small", "large"]) == {"small"}


def test_a_tenant_that_fills_the_store_loses_its_own():
    store = make_store(max_responses=10)
    store.put(response("mine", tenant="b"))
    for number in range(30):
        store.put(response(str(number)))
    assert kept(store, ["mine"], tenant="b") == {"mine"}


@pytest.mark.parametrize("bound", ["max_responses", "max_bytes", "max_age_s"])
def test_a_bound_of_0_keeps_nothing(bound):
    store = make_store(**{bound: 0})
    assert not store.put(response("r"))
    assert len(store) == 0


def test_the_old_is_forgotten_though_it_is_used():
    clock = Clock()
    store = make_store(clock)
    store.put(response("old"))
    clock.now_s = 600
    store.put(response("new"))
    store.get("a", "old")
    clock.now_s = 1001
    assert kept(store, ["old", "new"]) == {"new"}
    assert store.find_items("a", ["in-old", "in-new"]).keys() == {"in-new"}


def test_what_is_remembered_of_ages_does_not_grow_with_what_was_dropped():
    store = make_store(max_responses=5)
    for number in range(3 * MAX_DROPPED_AGES):
        store.put(response(str(number)))
    assert len(store._by_age) <= MAX_DROPPED_AGES + 2 * 5 + 1


def test_a_conversation_is_the_items_of_all_its_responses_in_order():
    store = make_store()
    store.put(response("1"))
    store.put(response("2", previous_id="1"))
    store.put(response("3", previous_id="2"))
    items = store.conversation("a", "3", max_items=6, max_bytes=1000)
    assert [item.id for item in items] == ["in-1", "out-1", "in-2", "out-2", "in-3", "out-3"]
    for bounds in ({"max_items": 5, "max_bytes": 1000}, {"max_items": 6, "max_bytes": 20}):
        with pytest.raises(InvalidRequestError):
            store.conversation("a", "3", **bounds)
    store.delete("a", "1")
    with pytest.raises(NotFoundError, match=r"'1', from which '3' goes on"):
        store.conversation("a", "3", max_items=6, max_bytes=1000)


def test_a_long_conversation_in_use_is_kept_as_a_whole():
    store = make_store(max_responses=10)
    store.put(response("0"))
    for number in range(1, 30):
        previous = str(number - 1) if number < 8 else "7"
        store.put(response(str(number), previous_id=previous if number < 8 else None))
        store.conversation("a", "7" if number > 7 else str(number), max_items=99, max_bytes=9999)
    assert kept(store, map(str, range(8))) == set(map(str, range(8)))


def test_one_under_way_cannot_be_gone_on_from():
    store = make_store()
    store.put(running("r"))
    with pytest.raises(InvalidRequestError):
        store.conversation("a", "r", max_items=9, max_bytes=999)
    assert store.advance("a", "r", progress(output=["o"]))
    assert store.get("a", "r").object() == {"status": "in_progress", "output": [{"id": "o"}]}
    assert store.advance("a", "r", progress(status="completed", output=["p"], is_end=True))
    ids = [item.id for item in store.conversation("a", "r", max_items=9, max_bytes=999)]
    assert ids == ["in-r", "o", "p"]
    assert store.find_items("a", ids).keys() == set(ids)


def test_a_state_that_is_not_told_stays_as_it_was():
    store = make_store()
    store.put(running("r"))
    before = store.get("a", "r").response
    store.advance("a", "r", Progress((), None, (StoredItem("o", b"{}"),), is_end=False))
    assert store.get("a", "r").response == before


def test_events_are_read_from_any_number_on():
    store = make_store()
    store.put(running("r", keeps_events=True))
    assert store.read_events("a", "r", -1).events == ()
    store.advance("a", "r", progress(*EVENTS))
    for after, rest in ((-1, EVENTS), (0, EVENTS[1:]), (1, ()), (9, ())):
        page = store.read_events("a", "r", after)
        assert (page.events, page.is_end) == (rest, False)
    store.advance("a", "r", progress(b"{}", is_end=True))
    assert store.read_events("a", "r", 1).is_end
    assert store.read_events("a", "r", 2).is_end


def test_events_are_read_a_page_at_a_time():
    store = make_store(max_bytes=MAX_PAGE_BYTES * 8)
    store.put(running("r", keeps_events=True))
    large = b"x" * (MAX_PAGE_BYTES // 2 + 1)
    store.advance("a", "r", progress(*[large] * 5, is_end=True))
    sizes, after = [], -1
    while not (page := store.read_events("a", "r", after)).is_end:
        sizes.append(len(page.events))
        after += len(page.events)
    assert (sizes, len(page.events)) == ([2, 2], 1)


def test_events_of_others_are_not_kept():
    store = make_store()
    store.put(running("r"))
    store.advance("a", "r", progress(*EVENTS))
    with pytest.raises(InvalidRequestError) as caught:
        store.read_events("a", "r", -1)
    assert caught.value.param == "stream"


def test_cancelling_ends_once_and_tells_the_owner():
    store = make_store()
    store.put(running("r", keeps_events=True))
    store.advance("a", "r", progress(*EVENTS))
    first = store.cancel("a", "r")
    assert first.object()["status"] == "cancelled"
    assert store.cancel("a", "r") == first
    page = store.read_events("a", "r", 1)
    (event,) = map(json.loads, page.events)
    assert (event["type"], event["sequence_number"], page.is_end) == ("response.failed", 2, True)
    assert event["response"] == first.object()
    assert store.renew("ingress", {"r"}) == {"r"}
    assert store.renew("ingress", {"r"}) == set()
    assert not store.advance("a", "r", progress(status="completed", is_end=True))
    assert store.get("a", "r") == first


def test_deleting_tells_the_owner():
    store = make_store()
    store.put(running("r"))
    store.delete("a", "r")
    assert store.renew("ingress", {"r"}) == {"r"}
    assert not store.advance("a", "r", progress())


def test_an_owner_that_is_not_heard_of_has_left_its_responses():
    clock = Clock()
    store = make_store(clock)
    store.put(running("r", keeps_events=True))
    clock.now_s = LEASE_S
    assert store.get("a", "r").object()["status"] == "queued"
    store.renew("ingress", {"r"})
    clock.now_s = 2 * LEASE_S
    assert store.get("a", "r").object()["status"] == "queued"
    clock.now_s += 0.1
    failed = store.get("a", "r").object()
    assert (failed["status"], failed["error"]["code"]) == ("failed", "server_error")
    assert store.read_events("a", "r", -1).is_end
    # It may be back; what was told is not taken back.
    store.renew("ingress", {"r"})
    assert not store.advance("a", "r", progress(status="completed", is_end=True))


def test_a_living_owner_that_lost_one_response_has_left_that_one():
    clock = Clock()
    store = make_store(clock)
    store.put(running("lost"))
    store.put(running("found"))
    store.put(running("other", owner="another"))
    store.renew("ingress", {"found"})
    store.renew("another", {"other"})
    # It may be on its way here and not yet among what the owner told.
    assert store.get("a", "lost").object()["status"] == "queued"
    clock.now_s = LEASE_S + 0.1
    store.renew("another", {"other"})
    store.renew("ingress", {"found"})
    states = {name: store.get("a", name).object()["status"] for name in ("lost", "found", "other")}
    assert states == {"lost": "failed", "found": "queued", "other": "queued"}


def test_what_is_worked_on_is_not_dropped_for_room():
    store = make_store(max_responses=2)
    store.put(running("r"))
    for number in range(5):
        assert store.put(response(str(number)))
    assert kept(store, ["r", "4"]) == {"r", "4"}
    store.put(running("s"))
    assert not store.put(response("t"))


def test_events_without_end_fail_the_response_and_leave_the_store():
    store = make_store(max_bytes=20 * ENTRY_BYTES)
    store.put(running("r", keeps_events=True))
    num_told = 0
    while store.advance("a", "r", progress(b"x" * ENTRY_BYTES)):
        num_told += 1
        assert store.num_bytes <= 20 * ENTRY_BYTES
    assert num_told > 10
    (event,) = map(json.loads, store.read_events("a", "r", num_told).events)
    assert event["sequence_number"] == num_told + 1
    assert event["response"]["error"]["code"] == "rate_limit_exceeded"
    assert store.num_bytes < 5 * ENTRY_BYTES
