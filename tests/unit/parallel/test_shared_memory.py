from __future__ import annotations

import platform
import random
import socket
import subprocess
import sys
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from gptoss_ray.errors import ConfigError, GroupBrokenError
from gptoss_ray.parallel import shared_region
from gptoss_ray.parallel.shared_memory import SharedMemoryCollectives

TIMEOUT_S = 60.0


@pytest.fixture
def name():
    return f"test-{uuid.uuid4().hex}"


def run_ranks(name, world_size, work, *, timeout_s=TIMEOUT_S, mailbox_bytes=1 << 20):
    """Run `work` in a thread for every rank; returns what each returned or raised."""

    def run(rank):
        try:
            collectives = SharedMemoryCollectives(
                name, rank, world_size, timeout_s=timeout_s, mailbox_bytes=mailbox_bytes
            )
            try:
                return work(collectives)
            finally:
                collectives.close()
        except GroupBrokenError as error:
            return error

    with ThreadPoolExecutor(world_size) as pool:
        return list(pool.map(run, range(world_size)))


def rows_between(seed, source, target, count, width, dtype):
    """The rows that `source` sends to `target`: every rank can tell what must arrive."""
    generator = torch.Generator().manual_seed(hash((seed, source, target)) % 2**31)
    return torch.randint(0, 256, (count, width), generator=generator).to(dtype)


@pytest.mark.parametrize("mailbox_bytes", [7, 4096])
@pytest.mark.parametrize("world_size", [1, 2, 3, 4])
def test_rows_arrive_in_order_whatever_their_number_type_and_pace(name, world_size, mailbox_bytes):
    num_rounds = 30

    def work(collectives):
        rank, chooser, pace = collectives.rank, random.Random(0), random.Random(collectives.rank)
        for number in range(num_rounds):
            dtype = chooser.choice([torch.bfloat16, torch.uint8, torch.int64, torch.float32])
            width = chooser.choice([1, 3, 17])
            counts = [[chooser.choice([0, 0, 1, 5]) for _ in range(world_size)] for _ in range(world_size)]
            received_counts = [row[rank] for row in counts]
            send = [
                rows_between(number, rank, peer, count, width, dtype)
                for peer, count in enumerate(counts[rank])
            ]
            expected = torch.cat(
                [
                    rows_between(number, peer, rank, count, width, dtype)
                    for peer, count in enumerate(received_counts)
                ]
            )
            out = torch.empty_like(expected) if number % 2 else None
            if pace.random() < 0.1:
                time.sleep(0.003)
            received = collectives.all_to_all(torch.cat(send), counts[rank], received_counts, out)
            assert received.dtype == dtype
            assert torch.equal(received, expected)
            assert out is None or received is out
        return num_rounds

    assert run_ranks(name, world_size, work, mailbox_bytes=mailbox_bytes) == [num_rounds] * world_size


def test_reductions_and_exchanges_may_follow_one_another_in_any_order(name):
    def work(collectives):
        chooser, pace = random.Random(1), random.Random(collectives.rank)
        for number in range(300):
            if pace.random() < 0.02:
                time.sleep(0.002)
            if chooser.random() < 0.3:
                send = torch.full((3, 2), collectives.rank)
                received = collectives.all_to_all(send, [1, 1, 1], [1, 1, 1])
                assert received[:, 0].tolist() == [0, 1, 2]
            else:
                values = [number * collectives.rank, -collectives.rank, -number, 2**62 + collectives.rank]
                assert collectives.all_reduce_max(values) == [2 * number, 0, -number, 2**62 + 2]
        return "done"

    assert run_ranks(name, 3, work) == ["done"] * 3


def test_a_reduction_may_be_wider_than_a_slot(name):
    def work(collectives):
        return collectives.all_reduce_max(
            [index * (-1) ** (index + collectives.rank) for index in range(200)]
        )

    assert run_ranks(name, 2, work) == [list(range(200))] * 2


def test_more_bytes_than_the_mailbox_holds_go_through_one_way_alone(name):
    sent = torch.arange(100_000)

    def work(collectives):
        if collectives.rank == 0:
            return collectives.all_to_all(sent, [0, len(sent)], [0, 0])
        return collectives.all_to_all(sent[:0], [0, 0], [len(sent), 0])

    nothing, received = run_ranks(name, 2, work, mailbox_bytes=10_000)
    assert nothing.shape == (0,)
    assert torch.equal(received, sent)


def test_what_a_rank_did_before_it_left_still_counts(name):
    def work(collectives):
        if collectives.rank == 1:
            time.sleep(0.05)
        received = collectives.all_to_all(torch.full((2, 1), collectives.rank), [1, 1], [1, 1])
        return received.flatten().tolist()

    assert run_ranks(name, 2, work) == [[0, 1], [0, 1]]


def test_a_rank_that_leaves_breaks_the_group_for_good_and_is_named_to_all(name):
    def work(collectives):
        if collectives.rank == 2:
            return "left"
        if collectives.rank == 1:
            with pytest.raises(GroupBrokenError, match="rank 2 left"):
                collectives.all_reduce_max([1])
        else:  # waits only for rank 1, which is there but waits for rank 2
            with pytest.raises(GroupBrokenError, match="rank 2 left, says rank 1"):
                collectives.all_to_all(torch.zeros(0), [0, 0, 0], [0, 1, 0])
        with pytest.raises(GroupBrokenError, match="rank 2 left"):
            collectives.all_reduce_max([1])
        return "broken"

    assert run_ranks(name, 3, work) == ["broken", "broken", "left"]


def test_a_rank_that_fails_inside_a_collective_breaks_the_group(name):
    def work(collectives):
        if collectives.rank == 1:
            with pytest.raises(OverflowError):
                collectives.all_reduce_max([2**63])
        with pytest.raises(GroupBrokenError):
            collectives.all_reduce_max([0])
        return "broken"

    assert run_ranks(name, 2, work) == ["broken"] * 2


def test_a_rank_later_than_the_deadline_is_lost_and_learns_it(name):
    was_given_up = threading.Event()

    def work(collectives):
        if collectives.rank == 0:
            with pytest.raises(GroupBrokenError, match=r"rank 1 took no part for 1 s"):
                collectives.all_to_all(torch.zeros(1), [0, 1], [0, 1])
            was_given_up.set()
        else:
            was_given_up.wait(TIMEOUT_S)
            with pytest.raises(GroupBrokenError, match="rank 1 left, says rank 0"):
                collectives.all_reduce_max([1])
        return "broken"

    assert run_ranks(name, 2, work, timeout_s=1.0) == ["broken"] * 2


def test_closing_from_another_thread_ends_a_wait(name):
    def work(collectives):
        if collectives.rank == 1:
            was_closed.wait(TIMEOUT_S)
            return None
        closer = threading.Timer(0.05, collectives.close)
        closer.start()
        with pytest.raises(GroupBrokenError, match="rank 0 was closed"):
            collectives.all_reduce_max([1])
        was_closed.set()
        closer.join()
        with pytest.raises(GroupBrokenError, match="rank 0 was closed"):
            collectives.all_to_all(torch.zeros(0), [0, 0], [0, 0])
        return "closed"

    was_closed = threading.Event()
    assert run_ranks(name, 2, work)[0] == "closed"


@pytest.mark.parametrize(("rank", "missing"), [(0, r"ranks \[1, 2\]"), (2, "rank 0")])
def test_a_peer_that_never_arrives_is_named_at_the_deadline(name, rank, missing):
    with pytest.raises(GroupBrokenError, match=f"no sign of {missing}"):
        SharedMemoryCollectives(name, rank, 3, timeout_s=0.1)


@pytest.mark.parametrize(("rank", "num_ranks"), [(0, 3), (2, 3), (0, 2)])
def test_what_is_being_formed_can_be_called_off(name, rank, num_ranks):
    is_unwanted = threading.Event()
    calls_off = threading.Timer(0.05, is_unwanted.set)
    calls_off.start()
    began_at = time.monotonic()
    with pytest.raises(GroupBrokenError, match=r"no sign of|called off"):
        SharedMemoryCollectives(name, rank, num_ranks, timeout_s=3600, is_unwanted=is_unwanted)
    assert time.monotonic() - began_at < 60
    calls_off.join()


def test_a_name_in_use_on_the_host_is_refused(name):
    with socket.socket(socket.AF_UNIX) as holder:
        holder.bind(shared_region.address_of(name))
        with pytest.raises(GroupBrokenError, match="in use"):
            SharedMemoryCollectives(name, 0, 2, timeout_s=TIMEOUT_S)


def test_ranks_that_disagree_on_the_size_of_a_mailbox_do_not_form_a_group(name):
    def work(rank):
        with pytest.raises(GroupBrokenError) as raised:
            SharedMemoryCollectives(name, rank, 2, timeout_s=1.0, mailbox_bytes=(rank + 1) << 20)
        return str(raised.value)

    with ThreadPoolExecutor(2) as pool:
        messages = list(pool.map(work, range(2)))
    assert "same configuration" in messages[1]


def test_memory_is_neither_given_to_nor_taken_from_another_user(name, monkeypatch):
    monkeypatch.setattr(shared_region, "_is_same_user", lambda connection: False)
    first, second = run_ranks(name, 2, lambda collectives: "formed", timeout_s=0.3)
    assert "no sign of ranks [1]" in str(first)
    assert isinstance(second, GroupBrokenError)


def test_a_closed_group_leaves_no_descriptor_open(name):
    def num_descriptors():
        return len(list(Path("/proc/self/fd").iterdir()))

    before = num_descriptors()
    run_ranks(name, 2, lambda collectives: collectives.all_reduce_max([1]))
    assert num_descriptors() == before


@pytest.mark.parametrize(("system", "machine"), [("linux", "aarch64"), ("darwin", "x86_64")])
def test_a_machine_that_reorders_stores_is_refused_with_the_remedy(name, monkeypatch, system, machine):
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    with pytest.raises(ConfigError, match="shared_memory: false"):
        SharedMemoryCollectives(name, 0, 1, timeout_s=1.0)


OTHER_PROCESS = """
import sys, time, torch
from gptoss_ray.parallel.shared_memory import SharedMemoryCollectives

collectives = SharedMemoryCollectives(sys.argv[1], 0, 2, timeout_s=60.0, mailbox_bytes=4096)
rows = torch.arange(6000, dtype=torch.int64)
assert collectives.all_to_all(rows, [1000, 5000], [1000, 3]).tolist() == [*range(1000), 7, 8, 9]
assert collectives.all_reduce_max([3, -3]) == [4, -3]
time.sleep(600)
"""


def test_a_killed_process_is_noticed_and_its_name_is_free_again(name):
    process = subprocess.Popen([sys.executable, "-c", OTHER_PROCESS, name])
    try:
        collectives = SharedMemoryCollectives(name, 1, 2, timeout_s=TIMEOUT_S, mailbox_bytes=4096)
        rows = torch.arange(7, 12, dtype=torch.int64)
        received = collectives.all_to_all(rows, [3, 2], [5000, 2])
        assert received.tolist() == [*range(1000, 6000), 10, 11]
        assert collectives.all_reduce_max([4, -4]) == [4, -3]
    finally:
        process.kill()  # not waited for: a zombie has ended too
    with pytest.raises(GroupBrokenError, match="process of rank 0 ended"):
        collectives.all_reduce_max([0])
    collectives.close()
    process.wait()
    assert run_ranks(name, 2, lambda again: again.all_reduce_max([again.rank])) == [[1], [1]]
