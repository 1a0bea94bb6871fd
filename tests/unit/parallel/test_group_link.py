import time
from concurrent.futures import ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

import pytest
import torch

from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel import group_link
from gptoss_ray.parallel.group_link import GroupLink, form_collectives
from gptoss_ray.parallel.membership import GroupMembership
from gptoss_ray.parallel.mixed_collectives import MixedCollectives
from tests.support.rank_processes import rank_processes

MEMBERSHIP = GroupMembership("group", 1, ("host",) * 2, "127.0.0.1", 1)
REAL = ParallelConfig(num_ranks=3, collective_timeout_s=3600)


class FakeCollectives:
    """Remembers how it was formed, and whether it was closed."""

    def __init__(self, *args, **kwargs):
        self.args = args
        self.kwargs = kwargs
        self.rank = args[1]
        self.world_size = 2
        self.is_closed = False
        self.streamed = object()

    def close(self):
        self.is_closed = True


class FakeSharedMemory(FakeCollectives):
    pass


class FakeDeepspeed(FakeCollectives):
    pass


@pytest.fixture(autouse=True)
def _fake_wires(monkeypatch):
    monkeypatch.setattr(group_link, "SharedMemoryCollectives", FakeSharedMemory)
    monkeypatch.setattr(group_link, "DeepspeedCollectives", FakeDeepspeed)


def formed(hosts, rank=0, **config):
    return form_collectives(replace(MEMBERSHIP, hosts=tuple(hosts)), rank, ParallelConfig(**config))


def test_ranks_of_one_host_share_memory_and_nothing_else():
    collectives = formed("AAA", rank=2)
    assert isinstance(collectives, FakeSharedMemory)
    assert collectives.args == ("group-1-0", 2, 3)


@pytest.mark.parametrize(
    ("hosts", "config"),
    [
        ("ABC", {}),
        ("AAA", {"shared_memory": False}),
        ("AAB", {"shared_memory": False}),
        ("AAA", {"device": "cuda"}),
        ("AABB", {"device": "cuda"}),
    ],
)
def test_deepspeed_joins_ranks_that_share_no_memory(hosts, config):
    collectives = formed(hosts, rank=1, **config)
    assert isinstance(collectives, FakeDeepspeed)
    assert collectives.kwargs["device"] == config.get("device", "cpu")
    assert collectives.kwargs["reducing_ranks"] is None


def test_several_ranks_on_several_hosts_get_both_wires():
    collectives = formed("ABABB", rank=3)
    assert isinstance(collectives, MixedCollectives)
    assert collectives._local.args == ("group-1-1", 1, 3)
    assert collectives._local_ranks == (1, 3, 4)
    assert collectives._remote.kwargs["reducing_ranks"] == [0, 1]


def test_the_name_of_the_shared_memory_differs_between_hosts_and_epochs():
    names = {
        form_collectives(replace(MEMBERSHIP, hosts=tuple("AABB"), epoch=epoch), rank, REAL)._local.args[0]
        for epoch in (1, 2)
        for rank in (0, 2)
    }
    assert len(names) == 4


def test_what_was_formed_is_closed_when_the_other_wire_fails(monkeypatch):
    local = FakeSharedMemory("name", 0, 2)
    monkeypatch.setattr(group_link, "SharedMemoryCollectives", lambda *args, **kwargs: local)

    def fail(*args, **kwargs):
        raise GroupBrokenError("nobody came")

    monkeypatch.setattr(group_link, "DeepspeedCollectives", fail)
    with pytest.raises(GroupBrokenError, match="nobody came"):
        formed("AAB")
    assert local.is_closed


def test_a_link_in_no_group_has_no_collectives_and_says_so():
    link = GroupLink(1, ParallelConfig(num_ranks=2))
    with pytest.raises(GroupBrokenError, match="rank 1 is in no group"):
        _ = link.collectives
    assert (link.rank, link.epoch, link.world_size) == (1, 0, 2)


def test_ranks_with_cards_leave_exchanges_to_their_streams():
    link = GroupLink(0, ParallelConfig(num_ranks=2, device="cuda"))
    assert link.is_streamed
    with pytest.raises(GroupBrokenError, match="rank 0 is in no group"):
        _ = link.streamed
    link.join(MEMBERSHIP)
    assert link.streamed is link.collectives.streamed
    assert not GroupLink(0, ParallelConfig(num_ranks=2)).is_streamed


def test_joining_swaps_the_collectives_under_those_who_hold_the_link():
    link = GroupLink(0, ParallelConfig(num_ranks=3))
    link.join(MEMBERSHIP)
    first = link.collectives
    link.join(replace(MEMBERSHIP, epoch=2, hosts=("host",) * 3))
    assert link.collectives is not first
    assert first.is_closed
    assert (link.epoch, link.world_size) == (2, 3)


def test_leaving_closes_the_collectives_and_may_be_repeated():
    link = GroupLink(0, ParallelConfig())
    link.join(MEMBERSHIP)
    collectives = link.collectives
    link.leave()
    link.leave()
    assert collectives.is_closed
    with pytest.raises(GroupBrokenError, match="last epoch: 1"):
        _ = link.collectives


@pytest.mark.parametrize("epoch", [1, 2])
def test_an_epoch_that_is_not_later_is_refused_and_the_current_one_stays(epoch):
    link = GroupLink(0, ParallelConfig())
    link.join(replace(MEMBERSHIP, epoch=2))
    with pytest.raises(GroupBrokenError, match="epochs only grow"):
        link.join(replace(MEMBERSHIP, epoch=epoch))
    assert not link.collectives.is_closed


def test_leaving_calls_a_join_off_that_waits_for_others():
    link = GroupLink(1, REAL)
    formed = []

    def wait(membership, rank, config, timeout_s, is_unwanted):
        formed.append(is_unwanted.wait(10))
        raise GroupBrokenError("called off")

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor() as pool:
        patch.setattr(group_link, "form_collectives", wait)
        joining = pool.submit(link.join, replace(MEMBERSHIP, hosts=("host",) * 3))
        while not link._changing.locked():
            time.sleep(0.001)
        link.leave()
        with pytest.raises(GroupBrokenError, match="called off"):
            joining.result(10)
    assert formed == [True]


def test_a_join_that_fails_leaves_the_link_in_no_group_and_the_epoch_free_to_retry(monkeypatch):
    link = GroupLink(0, ParallelConfig())
    link.join(MEMBERSHIP)

    def fail(*args, **kwargs):
        raise GroupBrokenError("nobody came")

    monkeypatch.setattr(group_link, "form_collectives", fail)
    with pytest.raises(GroupBrokenError, match="nobody came"):
        link.join(replace(MEMBERSHIP, epoch=2))
    monkeypatch.undo()
    with pytest.raises(GroupBrokenError):
        _ = link.collectives
    assert link.epoch == 1


def exchange_ranks(link):
    """Every rank sends every rank its number, and all agree on the largest."""
    num_ranks = link.world_size
    received = link.collectives.all_to_all(
        torch.full((num_ranks, 2), link.rank), [1] * num_ranks, [1] * num_ranks
    )
    kind = type(link.collectives).__name__
    return kind, received[:, 0].tolist(), link.collectives.all_reduce_max([link.rank])


@pytest.mark.parametrize(
    ("hosts", "config", "kind"),
    [
        ("AAA", REAL, "SharedMemoryCollectives"),
        ("AAA", REAL.model_copy(update={"shared_memory": False}), "DeepspeedCollectives"),
        ("ABC", REAL, "DeepspeedCollectives"),
        ("AAB", REAL, "MixedCollectives"),
    ],
)
def test_processes_exchange_over_every_wire(hosts, config, kind):
    results = rank_processes().run(exchange_ranks, hosts=hosts, config=config)
    assert results == [(kind, [0, 1, 2], [2])] * 3


def wait_for_the_others(link):
    with pytest.raises(GroupBrokenError):
        link.collectives.all_reduce_max([1]) if link.rank != 1 else link.collectives.close()
        link.collectives.all_reduce_max([1])


def test_closing_one_ranks_collectives_breaks_all_of_a_mixed_group():
    rank_processes().run(wait_for_the_others, hosts="AAB", config=REAL)


def exchange_until_broken(link, exchanged):
    with pytest.raises(GroupBrokenError):
        while True:
            exchange_ranks(link)
            exchanged.touch()


@pytest.mark.parametrize("killed_rank", [1, 2])
def test_a_rank_killed_on_one_host_is_noticed_on_every_host_long_before_the_deadline(killed_rank, tmp_path):
    exchanged = tmp_path / "exchanged"
    futures = rank_processes().start(exchange_until_broken, exchanged, hosts="AAB", config=REAL)
    while not exchanged.exists():
        assert not any(future.done() for future in futures)
        time.sleep(0.02)
    rank_processes().kill(killed_rank)
    with pytest.raises(BrokenProcessPool):
        futures.pop(killed_rank).result()
    for survivor in futures:
        survivor.result()
