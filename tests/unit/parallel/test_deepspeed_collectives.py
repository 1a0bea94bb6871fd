import os
import signal
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from unittest.mock import patch

import psutil
import pytest
import torch

from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.parallel.deepspeed_collectives import _BACKENDS, DeepspeedCollectives
from tests.support.rank_processes import STORE_HOST, fresh_membership, rank_processes

GLOO = ParallelConfig(shared_memory=False, collective_timeout_s=240)
LONGER_THAN_A_TEST = ParallelConfig(shared_memory=False, collective_timeout_s=3600)


def run(work, *args, num_ranks, config=GLOO):
    return rank_processes().run(work, *args, hosts=("host",) * num_ranks, config=config)


def rows(source, destination, dtype, width=3):
    """What a rank sends another, different for every pair: so many rows, none from each rank to the next."""
    count = (source + 2 * destination + 2) % 3
    return torch.full((count, width), 10 * source + destination).to(dtype)


def exchange_rows(link, dtype, into_out):
    ranks = range(link.world_size)
    sent = [rows(link.rank, rank, dtype) for rank in ranks]
    expected = [rows(rank, link.rank, dtype) for rank in ranks]
    out = torch.empty(sum(map(len, expected)), 3, dtype=dtype) if into_out else None
    received = link.collectives.all_to_all(
        torch.cat(sent), [len(part) for part in sent], [len(part) for part in expected], out
    )
    assert out is None or received is out
    assert received.dtype == dtype
    assert torch.equal(received, torch.cat(expected))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.uint8, torch.int64])
def test_rows_arrive_in_the_order_of_ranks(dtype):
    run(exchange_rows, dtype, False, num_ranks=3)


def test_rows_arrive_in_the_tensor_that_was_given():
    run(exchange_rows, torch.float32, True, num_ranks=2)


def exchange_nothing(link):
    nothing = [0] * link.world_size
    return link.collectives.all_to_all(torch.empty(0, 4), nothing, nothing).shape


def test_an_exchange_of_no_rows_completes_and_keeps_the_width():
    assert run(exchange_nothing, num_ranks=2) == [(0, 4), (0, 4)]


def largest(link, values_of_ranks):
    return link.collectives.all_reduce_max(values_of_ranks[link.rank])


def test_the_largest_value_of_each_place_reaches_every_rank_with_all_64_bits():
    values = [[-5, 2**62 + 1, -(2**63)], [-7, 2**62, 3], [-6, 0, -(2**63)]]
    assert run(largest, values, num_ranks=3) == [[-5, 2**62 + 1, 3]] * 3


def count_exchanges(link, num_exchanges):
    import deepspeed.comm

    calls = []
    real = deepspeed.comm.all_to_all_single
    deepspeed.comm.all_to_all_single = lambda *args, **kwargs: calls.append(1) or real(*args, **kwargs)
    try:
        for _ in range(num_exchanges):
            exchange_nothing(link)
    finally:
        deepspeed.comm.all_to_all_single = real
    return len(calls)


def test_every_exchange_is_one_all_to_all_single_of_deepspeed():
    assert run(count_exchanges, 5, num_ranks=2) == [5, 5]


def agree_during_an_exchange(link, membership):
    """As ranks with cards would, but for gloo in NCCL's place."""
    link.leave()
    gloo, no_card = patch.dict(_BACKENDS, cuda="gloo"), patch("torch.cuda.current_device", lambda: None)
    with gloo, no_card:
        collectives = DeepspeedCollectives(membership, link.rank, device="cuda", timeout_s=60)
    sent = torch.full((2, 3), link.rank)
    exchange = threading.Thread(target=lambda: sent.copy_(collectives.all_to_all(sent, [1, 1], [1, 1])))
    if link.rank == 0:
        exchange.start()
        time.sleep(0.2)
    agreed = [collectives.all_reduce_max([link.rank, -link.rank]) for _ in range(3)]
    if link.rank == 1:
        exchange.start()
    exchange.join()
    collectives.close()
    return agreed[-1], sent[:, 0].tolist()


def test_ranks_with_cards_agree_on_a_step_while_an_exchange_of_the_one_before_is_under_way():
    membership = replace(fresh_membership(("host",) * 2), epoch=2)
    answers = run(agree_during_an_exchange, membership, num_ranks=2)
    assert answers == [([1, 0], [0, 1])] * 2


def join_later_epochs(link, memberships):
    for membership in memberships:
        link.join(membership)
        exchange_rows(link, torch.bfloat16, False)
    return link.epoch


def test_a_process_forms_one_epoch_after_another():
    later = [replace(fresh_membership(("host",) * 2), epoch=epoch) for epoch in (2, 3)]
    assert run(join_later_epochs, later, num_ranks=2) == [3, 3]


def lose_the_last_rank(link, membership_after):
    link.collectives.all_reduce_max([1])
    if link.rank == link.world_size - 1:
        os.kill(os.getpid(), signal.SIGKILL)
    with pytest.raises(GroupBrokenError, match="lost"):
        for _ in range(100):
            exchange_rows(link, torch.bfloat16, False)
    with pytest.raises(GroupBrokenError):
        link.collectives.all_reduce_max([1])
    link.join(membership_after)
    exchange_rows(link, torch.bfloat16, False)


def test_the_others_notice_a_killed_rank_long_before_the_deadline_and_form_a_group_without_it():
    after = replace(fresh_membership(("host",) * 2), epoch=2)
    futures = rank_processes().start(
        lose_the_last_rank, after, hosts=("host",) * 3, config=LONGER_THAN_A_TEST
    )
    for survivor in futures[:2]:
        survivor.result()
    with pytest.raises(BrokenProcessPool):
        futures[2].result()


def raise_on_rank_1(link):
    if link.rank == 1:
        raise ArithmeticError("the forward of rank 1")
    link.collectives.all_reduce_max([1])


def test_a_rank_that_leaves_breaks_the_collective_that_another_waits_in():
    futures = rank_processes().start(raise_on_rank_1, hosts=("host",) * 2, config=LONGER_THAN_A_TEST)
    with pytest.raises(GroupBrokenError):
        futures[0].result()
    assert isinstance(futures[1].exception(), ArithmeticError)


def close_while_waiting(link, seen):
    if link.rank == 1:
        while not seen.exists():  # alive, but never in the collective
            time.sleep(0.05)
        return
    threading.Timer(0.3, link.leave).start()
    collectives = link.collectives
    try:
        with pytest.raises(GroupBrokenError, match="closed"):
            collectives.all_reduce_max([1])
    finally:
        seen.touch()


def test_closing_from_another_thread_ends_a_wait(tmp_path):
    run(close_while_waiting, tmp_path / "seen", num_ranks=2, config=LONGER_THAN_A_TEST)


def form_without_the_others(link):
    link.leave()
    absent = fresh_membership(("host",) * 2)
    with pytest.raises(GroupBrokenError, match=r"2 ranks did not connect within 0\.5 s"):
        DeepspeedCollectives(absent, 0, device="cpu", timeout_s=0.5)
    with pytest.raises(GroupBrokenError, match="found no store"):
        DeepspeedCollectives(absent, 1, device="cpu", timeout_s=0.5)
    link.join(replace(fresh_membership(("host",)), epoch=2))


def test_a_group_whose_other_ranks_never_come_is_refused_after_the_deadline_and_leaves_nothing_behind():
    run(form_without_the_others, num_ranks=1)


def form_a_second_group(link):
    with pytest.raises(GroupBrokenError, match="in another group"):
        DeepspeedCollectives(fresh_membership(("host",)), 0, device="cpu", timeout_s=5)
    return link.collectives.all_reduce_max([7])


def test_a_second_group_in_one_process_is_refused_and_the_first_goes_on():
    assert run(form_a_second_group, num_ranks=1) == [[7]]


def addresses_listened_on(link):
    return {
        connection.laddr.ip
        for connection in psutil.Process().net_connections()
        if connection.status == psutil.CONN_LISTEN
    }


def test_ranks_listen_only_on_the_address_of_the_store():
    listened = set().union(*run(addresses_listened_on, num_ranks=2))
    assert listened == {STORE_HOST}


def exchange_in_stream(link):
    """On gloo what is appended is over at once; the wait is for the device behind it."""
    streamed = link.collectives.streamed
    sent = torch.arange(6).view(6, 1) + 10 * link.rank
    out = torch.empty(6, 1, dtype=torch.int64)
    assert streamed.all_to_all(sent, [3, 3], [3, 3], out) is out
    asked = []
    streamed.wait(lambda: asked.append(1) or len(asked) == 3)
    assert len(asked) == 3
    return out.flatten().tolist()


def test_exchanges_that_are_left_to_a_stream_arrive_and_the_device_is_asked_until_it_is_through():
    first, second = run(exchange_in_stream, num_ranks=2)
    assert first == [0, 1, 2, 10, 11, 12]
    assert second == [3, 4, 5, 13, 14, 15]


def wait_for_a_device_that_never_ends(link):
    collectives = link.collectives
    collectives.timeout_s = 0.2
    with pytest.raises(GroupBrokenError, match="lost or late"):
        collectives.streamed.wait(lambda: False)
    with pytest.raises(GroupBrokenError, match="closed"):
        collectives.streamed.all_to_all(torch.empty(1, 1), [1], [1])


def test_a_device_that_waits_for_a_lost_rank_is_given_up_at_the_deadline_and_the_group_with_it():
    run(wait_for_a_device_that_never_ends, num_ranks=1)


def find_a_group_that_was_closed(link):
    streamed = link.collectives.streamed

    def ends_with_the_group():
        """As kernels do that `close` has aborted."""
        link.leave()
        return True

    with pytest.raises(GroupBrokenError, match="it was closed"):
        streamed.wait(ends_with_the_group)


def test_what_a_device_did_while_its_group_was_closed_is_not_used():
    run(find_a_group_that_was_closed, num_ranks=1)
