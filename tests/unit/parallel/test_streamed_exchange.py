"""A padded exchange that is left to a device's stream: nothing is read back, and padding goes nowhere."""

from __future__ import annotations

import pytest
import torch

from gptoss_ray.config import ParallelConfig
from gptoss_ray.parallel.all_to_all import AllToAllTokenDispatcher, TokenExchange
from gptoss_ray.parallel.expert_placement import LayerPlacement, contiguous, copy_table
from tests.support.local_token_dispatcher import LocalTokenDispatcher
from tests.support.thread_collectives import ThreadLink, run_ranks
from tests.unit.parallel.test_all_to_all import (
    COPIES,
    PLACEMENTS,
    D,
    E,
    K,
    bits,
    make_dispatcher,
    make_exchange,
    random_experts,
    random_tokens,
    through,
)

LARGEST = 40


def padded_to(num_rows, x, expert_ids):
    """Put rows that are no tokens behind those that are, with what would be seen; return which are tokens."""
    num_tokens = len(x)
    rows = torch.full((num_rows, D), torch.nan).to(x.dtype)
    ids = torch.arange(K).expand(num_rows, K).clone()
    rows[:num_tokens], ids[:num_tokens] = x, expert_ids
    return rows, ids, torch.arange(num_rows) < num_tokens


def streamed(collectives, dispatch="padded", **options):
    return make_exchange(ThreadLink(collectives, is_streamed=True), dispatch, **options)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda placement: f"{placement.slots}".replace(" ", ""))
def test_ranks_that_read_no_counts_make_the_bits_that_one_rank_makes(placement, dtype):
    generator = torch.Generator().manual_seed(1)
    shard = random_experts(generator, dtype)
    steps = [[5, 0, 17, 2], [0, 3, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0], [40, 0, 0, 0], [5, 9, 1, 9]]
    tokens = [[random_tokens(generator, num_tokens, dtype) for num_tokens in step] for step in steps]

    def work(collectives):
        experts = shard(placement.local_slots(collectives.rank))
        dispatcher = make_dispatcher(streamed(collectives, dtype=dtype), placement)
        results = []
        for of_ranks in tokens:
            size = max(len(x) for x, _ in of_ranks[: placement.num_ranks]) + 1
            x, ids, is_token = padded_to(size, *of_ranks[collectives.rank])
            dispatcher.begin_step(size, is_token)
            results.append(through(dispatcher, experts, x, ids)[is_token])
        return results

    local, all_experts = LocalTokenDispatcher(E), shard(range(E))
    for rank, results in enumerate(run_ranks(placement.num_ranks, work)):
        expected = [through(local, all_experts, *of_ranks[rank]) for of_ranks in tokens]
        assert bits(results) == bits(expected)


def test_experts_elsewhere_and_padding_come_behind_the_rows_that_are_counted():
    x, expert_ids = random_tokens(torch.Generator().manual_seed(8), 6)

    def work(collectives):
        dispatcher = make_dispatcher(streamed(collectives), COPIES[2])
        rows, ids, is_token = padded_to(8, x, expert_ids)
        dispatcher.begin_step(8, is_token)
        grouped, handle = dispatcher.dispatch(rows, ids)
        home = dispatcher.combine(grouped.rows, handle)
        assert torch.equal(home[is_token], x[:, None].expand(6, K, D))
        counts = grouped.num_rows_per_expert
        assert (counts.dtype, len(grouped.rows)) == (torch.int32, 2 * 8 * K)
        assert grouped.rows[: counts.sum()].isfinite().all()
        return int(counts.sum()), dispatcher.expert_load.tolist(), int(dispatcher.exchange.traffic.num_rows)

    chosen = expert_ids.flatten().bincount(minlength=E).tolist()
    first, second = run_ranks(2, work)
    assert first[0] + second[0] == 2 * 6 * K
    for num_rows, load, counted in (first, second):
        assert load == chosen, "padding is chosen for nobody"
        assert counted == num_rows


def test_rows_of_an_expert_come_in_order_of_home_and_token_as_where_the_host_counts():
    expert_ids = torch.tensor([[6, 0, 1, 2], [0, 6, 5, 1], [7, 6, 2, 0]])

    def work(collectives):
        dispatcher = make_dispatcher(streamed(collectives), contiguous(E, 2))
        dispatcher.begin_step(3)
        named = torch.zeros(3, D).bfloat16()
        named[:, 0] = torch.arange(3) + 10 * collectives.rank
        grouped, handle = dispatcher.dispatch(named, expert_ids)
        dispatcher.combine(grouped.rows, handle)
        counts = grouped.num_rows_per_expert
        return counts.tolist(), grouped.rows[: counts.sum(), 0].tolist()

    first, second = run_ranks(2, work)
    assert first == ([6, 4, 4, 0], [0, 1, 2, 10, 11, 12, 0, 1, 10, 11, 0, 2, 10, 12])
    assert second == ([0, 2, 6, 2], [1, 11, 0, 1, 2, 10, 11, 12, 2, 12])


class NobodyElse:
    """Collectives whose exchange brings nothing, for tensors that hold nothing."""

    rank, world_size, is_streamed = 0, 2, True

    def all_to_all(self, send, send_counts, recv_counts, out=None):
        assert out.shape == send.shape
        return out

    @property
    def collectives(self):
        return self

    @property
    def streamed(self):
        return self


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_layer_reads_nothing_from_the_device(is_streamed):
    """On `meta` tensors there is nothing to read: who tries raises."""
    link = NobodyElse()
    link.is_streamed = is_streamed
    meta = torch.device("meta")
    exchange = TokenExchange(
        link,
        ParallelConfig(dispatch="padded"),
        num_experts=E,
        experts_per_token=K,
        hidden_size=D,
        dtype=torch.bfloat16,
        device=meta,
    )
    dispatcher = make_dispatcher(exchange, contiguous(E, 2))
    x = torch.empty(4, D, dtype=torch.bfloat16, device=meta)
    expert_ids = torch.empty(4, K, dtype=torch.int64, device=meta)
    dispatcher.begin_step(4, torch.empty(4, dtype=torch.bool, device=meta))
    if is_streamed:
        grouped, handle = dispatcher.dispatch(x, expert_ids)
        assert dispatcher.combine(grouped.rows, handle).shape == (4, K, D)
        assert grouped.num_rows_per_expert.shape == (E // 2,)
    else:
        with pytest.raises((RuntimeError, NotImplementedError)):
            dispatcher.dispatch(x, expert_ids)


def addresses(exchange, num_tokens):
    exchange.begin_step(num_tokens)
    buffers = exchange.way._buffers
    tensors = (buffers.sent_rows, buffers.received_rows, buffers.sent_results, buffers.received_results)
    return [tensor.data_ptr() for tensor in (*tensors, buffers.slot_positions)]


@pytest.mark.parametrize(
    "options",
    [{"dispatch": "padded"}, {"dispatch": "auto", "max_padded_bytes": 2 * LARGEST * K * D * 2}],
    ids=["padded", "auto"],
)
def test_buffers_of_all_padded_steps_share_one_memory_that_stays(options):
    """A graph of one size holds addresses while steps of other sizes come in between."""

    def work(collectives):
        link, options_of_exchange = ThreadLink(collectives, is_streamed=True), dict(options)
        exchange = TokenExchange(
            link,
            ParallelConfig(**options_of_exchange),
            num_experts=E,
            experts_per_token=K,
            hidden_size=D,
            dtype=torch.bfloat16,
            device=torch.device("cpu"),
            largest_step=LARGEST if options["dispatch"] == "padded" else 10 * LARGEST,
        )
        first = addresses(exchange, 1)
        return all(addresses(exchange, size) == first for size in (LARGEST, 3, 17, LARGEST, 1))

    assert run_ranks(2, work) == [True, True]


def test_steps_above_the_padded_ones_wait_on_the_host_for_what_they_read():
    """Only the padded way may be left to the stream."""
    x, expert_ids = random_tokens(torch.Generator().manual_seed(3), 3)

    def work(collectives):
        exchange = streamed(collectives, "auto", max_padded_bytes=2 * 2 * K * D * 2)
        dispatcher: AllToAllTokenDispatcher = make_dispatcher(exchange, contiguous(E, 2))
        kinds = []
        for size in (2, 3):
            dispatcher.begin_step(size)
            grouped, handle = dispatcher.dispatch(x[:size], expert_ids[:size])
            dispatcher.combine(grouped.rows, handle)
            kinds.append((exchange.pads(size), isinstance(grouped.num_rows_per_expert, list)))
        return kinds

    assert run_ranks(2, work) == [[(True, False), (False, True)]] * 2


def test_a_copy_of_an_expert_serves_those_homes_only_that_are_sent_to_it():
    placement: LayerPlacement = COPIES[2]
    tables = [copy_table(placement, home, ["host"] * 2) for home in range(2)]
    expert_ids = torch.full((2, K), 3)  # on both ranks; each home uses its own copy

    def work(collectives):
        dispatcher = make_dispatcher(streamed(collectives), placement)
        dispatcher.begin_step(2)
        grouped, handle = dispatcher.dispatch(torch.zeros(2, D).bfloat16(), expert_ids)
        dispatcher.combine(grouped.rows, handle)
        return grouped.num_rows_per_expert.tolist()

    assert [tables[home][3] for home in range(2)] == [0, 1]
    assert run_ranks(2, work) == [[0, 0, 0, 2 * K, 0], [0, 0, 0, 2 * K]]
