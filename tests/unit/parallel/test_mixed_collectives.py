import random

import pytest
import torch

from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.mixed_collectives import MixedCollectives
from tests.support import thread_collectives
from tests.support.thread_collectives import run_ranks, thread_group

HOSTS = ["AABB", "AAAB", "ABAB", "ABBA", "AAB"]


class Remote:
    """The wire between hosts as `MixedCollectives` uses it: reductions are of the hosts' first ranks only."""

    def __init__(self, everyone, leaders):
        self.rank = everyone.rank
        self.world_size = everyone.world_size
        self.send_counts = []
        self._everyone = everyone
        self._leaders = leaders

    def all_to_all(self, send, send_counts, recv_counts, out=None):
        self.send_counts.append(list(send_counts))
        return self._everyone.all_to_all(send, send_counts, recv_counts, out)

    def all_reduce_max(self, values):
        assert self._leaders is not None, "only the first rank of a host reduces between hosts"
        return self._leaders.all_reduce_max(values)

    def close(self):
        self._everyone.close()
        if self._leaders is not None:
            self._leaders.close()


def mixed_group(hosts):
    """The sides of a group, and the wire between hosts of each."""
    on_host = {host: [rank for rank, other in enumerate(hosts) if other == host] for host in hosts}
    locals_of = {host: thread_group(len(ranks)) for host, ranks in on_host.items()}
    leaders = dict(zip([ranks[0] for ranks in on_host.values()], thread_group(len(on_host)), strict=True))
    remotes = [Remote(side, leaders.get(side.rank)) for side in thread_group(len(hosts))]
    sides = []
    for rank, host in enumerate(hosts):
        local = locals_of[host][on_host[host].index(rank)]
        sides.append(MixedCollectives(local, remotes[rank], on_host[host]))
    return sides, remotes


def random_counts(num_ranks, seed):
    """[source][destination], some of them zero."""
    draw = random.Random(seed)
    return [[draw.choice([0, 0, 1, 2, 5]) for _ in range(num_ranks)] for _ in range(num_ranks)]


@pytest.mark.parametrize("into_out", [False, True])
@pytest.mark.parametrize("hosts", HOSTS)
def test_rows_arrive_as_over_a_single_wire(hosts, into_out):
    num_ranks = len(hosts)
    mixed, _ = mixed_group(hosts)

    def work(single):
        rank = single.rank
        for seed in range(3):
            counts = random_counts(num_ranks, seed)
            received = [row[rank] for row in counts]
            send = torch.arange(sum(counts[rank]) * 2).view(-1, 2) + 1000 * rank
            out = torch.empty(sum(received), 2, dtype=send.dtype) if into_out else None
            arrived = mixed[rank].all_to_all(send, counts[rank], received, out)
            assert out is None or arrived is out
            assert torch.equal(arrived, single.all_to_all(send, counts[rank], received))

    run_ranks(num_ranks, work)


def test_nothing_for_a_rank_of_the_same_host_crosses_the_network():
    mixed, remotes = mixed_group("ABBA")
    run_ranks(4, lambda single: mixed[single.rank].all_to_all(torch.ones(8, 2), [2] * 4, [2] * 4))
    assert [remote.send_counts for remote in remotes] == [
        [[0, 2, 2, 0]],
        [[2, 0, 0, 2]],
        [[2, 0, 0, 2]],
        [[0, 2, 2, 0]],
    ]


@pytest.mark.parametrize("hosts", HOSTS)
@pytest.mark.parametrize("highest_rank", [0, 1, 2])
def test_the_largest_value_of_any_host_reaches_every_rank(hosts, highest_rank):
    mixed, _ = mixed_group(hosts)

    def work(single):
        rank = single.rank
        return mixed[rank].all_reduce_max([9 if rank == highest_rank else rank, -rank])

    assert run_ranks(len(hosts), work) == [[9, 0]] * len(hosts)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("lost_rank", [0, 1, 2, 3])
def test_a_lost_rank_breaks_the_group_on_every_host(lost_rank, monkeypatch):
    monkeypatch.setattr(thread_collectives, "_TIMEOUT_S", 3600.0)  # the loss ends the waits, no deadline
    mixed, _ = mixed_group("AABB")

    def work(single):
        rank = single.rank
        if rank == lost_rank:
            mixed[rank].close()
        for collective in (lambda: mixed[rank].all_reduce_max([1]), lambda: exchange_one_row(mixed[rank])):
            with pytest.raises(GroupBrokenError):
                collective()

    run_ranks(4, work)


def exchange_one_row(side):
    return side.all_to_all(torch.ones(4, 1), [1] * 4, [1] * 4)
