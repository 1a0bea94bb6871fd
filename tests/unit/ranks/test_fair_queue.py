from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_ray.ranks.fair_queue import FairQueue


@dataclass
class Server:
    """Serves whose turn it is, and knows who got how many tokens."""

    shares: dict[str, float] = field(default_factory=dict)
    queue: FairQueue[str] = field(default_factory=FairQueue)
    got: Counter[str] = field(default_factory=Counter)
    costs: dict[int, float] = field(default_factory=dict)

    def push(self, tenant: str, cost: float = 10.0, num: int = 1) -> None:
        for _ in range(num):
            self.costs[self.queue.push(tenant, cost, tenant)] = cost

    def serve(self, num: int = 1) -> list[str]:
        served = []
        for _ in range(num):
            head = self.queue.head()
            assert head is not None
            tenant, number, _ = head
            self.queue.serve(tenant, self.costs[number], self.shares.get(tenant, 1.0))
            self.queue.remove(tenant, number)
            self.got[tenant] += self.costs[number]
            served.append(tenant)
        return served


def test_one_tenant_alone_is_served_in_order_of_arrival():
    queue: FairQueue[int] = FairQueue()
    for item in range(5):
        queue.push("", 1.0, item)
    seen = []
    while (head := queue.head()) is not None:
        seen.append(head[2])
        queue.remove(head[0], head[1])
    assert seen == list(range(5))


def test_a_flood_does_not_keep_a_tenant_with_one_request_waiting():
    server = Server()
    server.push("flood", num=1000)
    server.serve(100)
    server.push("quiet")
    assert "quiet" in server.serve(2)


def test_tenants_that_always_wait_get_tokens_and_not_requests_by_their_shares():
    server = Server({"double": 2.0})
    server.push("short", cost=10, num=900)
    server.push("long", cost=100, num=90)
    server.push("double", cost=10, num=900)
    server.serve(500)
    assert abs(server.got["short"] - server.got["long"]) <= 200
    assert abs(server.got["double"] - 2 * server.got["short"]) <= 200


def test_absence_saves_nothing_up():
    server = Server()
    server.push("a", num=100)
    server.push("b", num=1)
    server.serve(60)
    server.push("b", num=100)
    turns = server.serve(20)
    assert 9 <= turns.count("b") <= 11


def test_what_was_more_than_thought_is_made_up_for():
    server = Server()
    server.push("a", num=100)
    server.push("b", num=100)
    server.serve(2)
    server.queue.correct("a", 50, 1.0)
    assert server.serve(5) == ["b"] * 5


def test_costs_and_numbers_are_of_what_waits():
    queue: FairQueue[str] = FairQueue()
    first = queue.push("a", 3.0, "x")
    queue.push("b", 4.0, "y")
    assert (len(queue), queue.cost, queue.num_of("a"), queue.cost_of("b")) == (2, 7.0, 1, 4.0)
    queue.remove("a", first)
    assert (len(queue), queue.cost, queue.num_of("a"), queue.cost_of("nobody")) == (1, 4.0, 0, 0.0)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(1, 50)), max_size=60), st.data())
def test_nobody_who_waits_is_behind_by_more_than_the_largest_request_of_each(arrivals, data):
    server = Server()
    for tenant in "abc":
        server.push(tenant, cost=50, num=200)
    for tenant, cost in arrivals:
        server.push(tenant, cost)
        server.serve(data.draw(st.integers(0, 3)))
        got = [server.got[each] for each in "abc"]
        assert max(got) - min(got) <= 2 * 50
