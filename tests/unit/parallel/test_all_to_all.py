from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor

from gptoss_ray.config import ParallelConfig
from gptoss_ray.errors import GroupBrokenError
from gptoss_ray.kernels.kernels import Expert, SwiGLU
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.model.expert_shard import ExpertShard
from gptoss_ray.parallel.all_to_all import AllToAllTokenDispatcher, TokenExchange, padded_bytes
from gptoss_ray.parallel.expert_placement import LayerPlacement, contiguous, copy_table
from gptoss_ray.parallel.token_dispatcher import TokenDispatcher
from tests.support.local_token_dispatcher import LocalTokenDispatcher
from tests.support.thread_collectives import ThreadCollectives, ThreadLink, run_ranks

E, K, D = 8, 4, 32
COPIES = {
    2: LayerPlacement(((0, 1, 2, 3, 4), (5, 6, 7, 3))),
    3: LayerPlacement(((0, 1, 7), (2, 3, 4, 0), (5, 6, 7, 0))),
    4: LayerPlacement(((4, 0), (1, 6, 2), (3, 5, 6), (7, 6))),
}
PLACEMENTS = [contiguous(E, world_size) for world_size in (1, 2, 3, 4)] + list(COPIES.values())


class CountingCollectives:
    """Notes how many rows leave for each rank."""

    def __init__(self, collectives: ThreadCollectives) -> None:
        self.rank = collectives.rank
        self.world_size = collectives.world_size
        self.collectives = collectives
        self.counts: list[list[int]] = []

    def all_to_all(self, send: Tensor, send_counts: Sequence[int], recv_counts: Sequence[int], out=None):
        self.counts.append(list(send_counts))
        return self.collectives.all_to_all(send, send_counts, recv_counts, out)


def random_experts(generator: torch.Generator, dtype: torch.dtype) -> Callable[[Sequence[int]], ExpertShard]:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    matrices = random(E, 2 * D, D), random(E, 2 * D), random(E, D, D), random(E, D)

    kernels = ReferenceKernels(dtype)

    def expert(number: int) -> Expert:
        gate_up, gate_up_bias, down, down_bias = (tensor[number] for tensor in matrices)
        return Expert(
            kernels.matrix(kernels.pack(gate_up, gate_up_bias), (2 * D, D)),
            kernels.matrix(kernels.pack(down, down_bias), (D, D)),
        )

    def shard(expert_ids: Sequence[int]) -> ExpertShard:
        return ExpertShard.of([expert(number) for number in expert_ids], SwiGLU(1.7, 7.0), kernels)

    return shard


def random_tokens(generator: torch.Generator, num_tokens: int, dtype=torch.bfloat16) -> tuple[Tensor, Tensor]:
    x = torch.randn(num_tokens, D, generator=generator).to(dtype)
    return x, torch.rand(num_tokens, E, generator=generator).topk(K).indices


def make_exchange(link: ThreadLink, dispatch: str, dtype=torch.bfloat16, **options) -> TokenExchange:
    return TokenExchange(
        link,
        ParallelConfig(dispatch=dispatch, **options),
        num_experts=E,
        experts_per_token=K,
        hidden_size=D,
        dtype=dtype,
        device=torch.device("cpu"),
    )


def make_dispatcher(exchange: TokenExchange, placement: LayerPlacement) -> AllToAllTokenDispatcher:
    hosts = ["host"] * placement.num_ranks
    tables = [copy_table(placement, home, hosts) for home in range(placement.num_ranks)]
    return AllToAllTokenDispatcher(exchange, tables, placement.local_slots(exchange.rank))


def through(dispatcher: TokenDispatcher, experts: ExpertShard, x: Tensor, expert_ids: Tensor) -> Tensor:
    grouped, handle = dispatcher.dispatch(x, expert_ids)
    return dispatcher.combine(experts.forward(grouped, ReferenceKernels(x.dtype)), handle)


def bits(tensors: Sequence[Tensor]) -> list[bytes]:
    return [bytes(tensor.contiguous().view(torch.uint8).flatten().tolist()) for tensor in tensors]


@pytest.mark.parametrize("dispatch", ["padded", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("placement", PLACEMENTS, ids=lambda placement: f"{placement.slots}".replace(" ", ""))
def test_ranks_make_the_bits_that_one_rank_makes(placement, dtype, dispatch):
    generator = torch.Generator().manual_seed(1)
    shard = random_experts(generator, dtype)
    # Steps of several sizes; some ranks, or all of them, have nothing to do; a size comes again.
    steps = [
        [5, 0, 17, 2],
        [0, 3, 0, 0],
        [1, 1, 1, 1],
        [0, 0, 0, 0],
        [40, 0, 0, 0],
        [5, 9, 1, 9],
        [2, 9, 0, 3],
    ]
    tokens = [[random_tokens(generator, num_tokens, dtype) for num_tokens in step] for step in steps]

    def work(collectives: ThreadCollectives) -> list[Tensor]:
        experts = shard(placement.local_slots(collectives.rank))
        dispatcher = make_dispatcher(make_exchange(ThreadLink(collectives), dispatch, dtype), placement)
        results = []
        for of_ranks in tokens:
            dispatcher.begin_step(max(len(x) for x, _ in of_ranks[: placement.num_ranks]))
            results.append(through(dispatcher, experts, *of_ranks[collectives.rank]))
        return results

    local, all_experts = LocalTokenDispatcher(E), shard(range(E))
    for rank, results in enumerate(run_ranks(placement.num_ranks, work)):
        expected = [through(local, all_experts, *of_ranks[rank]) for of_ranks in tokens]
        assert bits(results) == bits(expected)


@pytest.mark.parametrize("dispatch", ["padded", "exact"])
def test_layers_that_share_an_exchange_may_place_experts_differently(dispatch):
    generator = torch.Generator().manual_seed(2)
    shard = random_experts(generator, torch.bfloat16)
    layers = [contiguous(E, 3), COPIES[3], contiguous(E, 3)]
    tokens = [[random_tokens(generator, rank + 1) for rank in range(3)] for _ in layers]

    def work(collectives: ThreadCollectives) -> list[Tensor]:
        exchange = make_exchange(ThreadLink(collectives), dispatch)
        dispatchers = [make_dispatcher(exchange, placement) for placement in layers]
        dispatchers[0].begin_step(3)
        return [
            through(dispatcher, shard(placement.local_slots(collectives.rank)), *of_ranks[collectives.rank])
            for dispatcher, placement, of_ranks in zip(dispatchers, layers, tokens, strict=True)
        ]

    local, all_experts = LocalTokenDispatcher(E), shard(range(E))
    for rank, results in enumerate(run_ranks(3, work)):
        expected = [through(local, all_experts, *of_ranks[rank]) for of_ranks in tokens]
        assert bits(results) == bits(expected)


@pytest.mark.parametrize("hidden_size", [1, 7, 34])
@pytest.mark.parametrize("dispatch", ["padded", "exact"])
def test_activations_of_any_width_travel_beside_their_ids(dispatch, hidden_size):
    x = torch.arange(3 * hidden_size).view(3, hidden_size).bfloat16()
    expert_ids = torch.tensor([[0, 1], [3, 0], [2, 3]])

    def work(collectives: ThreadCollectives) -> Tensor:
        exchange = TokenExchange(
            ThreadLink(collectives),
            ParallelConfig(dispatch=dispatch),
            num_experts=4,
            experts_per_token=2,
            hidden_size=hidden_size,
            dtype=torch.bfloat16,
            device=torch.device("cpu"),
        )
        dispatcher = make_dispatcher(exchange, contiguous(4, 2))
        dispatcher.begin_step(3)
        grouped, handle = dispatcher.dispatch(x, expert_ids)
        return dispatcher.combine(grouped.rows, handle)

    for home in run_ranks(2, work):
        assert torch.equal(home, x[:, None].expand(3, 2, hidden_size))


@pytest.mark.parametrize("dispatch", ["padded", "exact"])
def test_rows_of_an_expert_come_in_order_of_home_and_token(dispatch):
    x = torch.zeros(3, D).bfloat16()
    expert_ids = torch.tensor([[6, 0, 1, 2], [0, 6, 5, 1], [7, 6, 2, 0]])

    def work(collectives: ThreadCollectives) -> tuple[list[int], list[float]]:
        dispatcher = make_dispatcher(make_exchange(ThreadLink(collectives), dispatch), contiguous(E, 2))
        dispatcher.begin_step(3)
        named = x.clone()
        named[:, 0] = torch.arange(3) + 10 * collectives.rank
        grouped, handle = dispatcher.dispatch(named, expert_ids)
        dispatcher.combine(grouped.rows, handle)
        return grouped.num_rows_per_expert, grouped.rows[:, 0].tolist()

    first, second = run_ranks(2, work)
    assert first == ([6, 4, 4, 0], [0, 1, 2, 10, 11, 12, 0, 1, 10, 11, 0, 2, 10, 12])
    assert second == ([0, 2, 6, 2], [1, 11, 0, 1, 2, 10, 11, 12, 2, 12])


@pytest.mark.parametrize("dispatch", ["padded", "exact"])
def test_experts_see_tokens_only_and_no_padding(dispatch):
    x, expert_ids = random_tokens(torch.Generator().manual_seed(8), 6)

    def work(collectives: ThreadCollectives) -> list[int]:
        dispatcher = make_dispatcher(make_exchange(ThreadLink(collectives), dispatch), COPIES[2])
        dispatcher.begin_step(6)
        num_rows = []
        for num_tokens in (6, 2 * collectives.rank):  # the rows of the first layer are still in the buffers
            grouped, handle = dispatcher.dispatch(x[:num_tokens], expert_ids[:num_tokens])
            dispatcher.combine(grouped.rows, handle)
            num_rows.append(len(grouped.rows))
        return num_rows

    first, second = zip(*run_ranks(2, work), strict=True)
    assert sum(first) == 2 * 6 * K
    assert sum(second) == 2 * K


def test_exact_sends_a_token_once_to_each_rank_it_needs():
    x, _ = random_tokens(torch.Generator().manual_seed(3), 3)
    expert_ids = torch.tensor([[0, 1, 2, 3], [3, 4, 1, 6], [7, 5, 6, 4]])

    def work(collectives: ThreadCollectives) -> list[list[int]]:
        counting = CountingCollectives(collectives)
        dispatcher = make_dispatcher(make_exchange(ThreadLink(counting), "exact"), contiguous(E, 2))
        dispatcher.begin_step(3)
        num_tokens = 3 if collectives.rank == 0 else 0
        grouped, handle = dispatcher.dispatch(x[:num_tokens], expert_ids[:num_tokens])
        dispatcher.combine(grouped.rows, handle)
        return counting.counts

    counts, rows, results = run_ranks(2, work)[0]
    assert counts == [1, 1]
    assert rows == [2, 2]  # the second token needs two experts of either rank
    assert results == [6, 0]  # all of the first rank's are its own; the second has no tokens


@pytest.mark.parametrize(("dispatch", "num_collectives"), [("padded", 2), ("exact", 3)])
@pytest.mark.parametrize("num_tokens", [0, 4])
def test_a_layer_takes_few_collectives(dispatch, num_collectives, num_tokens):
    x, expert_ids = random_tokens(torch.Generator().manual_seed(4), num_tokens)

    def work(collectives: ThreadCollectives) -> int:
        dispatcher = make_dispatcher(make_exchange(ThreadLink(collectives), dispatch), contiguous(E, 2))
        dispatcher.begin_step(4)
        grouped, handle = dispatcher.dispatch(x, expert_ids)
        dispatcher.combine(grouped.rows, handle)
        return collectives.num_calls

    assert run_ranks(2, work) == [num_collectives] * 2


def test_every_rank_goes_the_same_way_whatever_its_own_tokens():
    of_four = padded_bytes(
        num_ranks=2, max_num_tokens=4, experts_per_token=K, hidden_size=D, dtype=torch.bfloat16
    )
    assert of_four == 2 * 4 * K * D * 2
    tokens = [random_tokens(torch.Generator().manual_seed(5), num_tokens) for num_tokens in (5, 0)]

    def work(collectives: ThreadCollectives) -> list[int]:
        exchange = make_exchange(ThreadLink(collectives), "auto", max_padded_bytes=of_four)
        dispatcher = make_dispatcher(exchange, contiguous(E, 2))
        x, expert_ids = tokens[collectives.rank]
        num_calls = []
        for max_num_tokens in (0, 4, 5, 4):
            before = collectives.num_calls
            dispatcher.begin_step(max_num_tokens)
            grouped, handle = dispatcher.dispatch(x[:max_num_tokens], expert_ids[:max_num_tokens])
            dispatcher.combine(grouped.rows, handle)
            num_calls.append(collectives.num_calls - before)
        return num_calls

    assert run_ranks(2, work) == [[2, 2, 3, 2]] * 2


@pytest.mark.parametrize("dispatch", ["padded", "exact"])
def test_more_tokens_than_agreed_are_refused_before_anything_is_sent(dispatch):
    x, expert_ids = random_tokens(torch.Generator().manual_seed(6), 3)

    def work(collectives: ThreadCollectives) -> int:
        dispatcher = make_dispatcher(make_exchange(ThreadLink(collectives), dispatch), contiguous(E, 1))
        with pytest.raises(AssertionError, match="more tokens"):
            dispatcher.dispatch(x[:0], expert_ids[:0])  # no step has begun
        dispatcher.begin_step(2)
        with pytest.raises(AssertionError, match="more tokens"):
            dispatcher.dispatch(x, expert_ids)
        return collectives.num_calls

    assert run_ranks(1, work) == [0]


def test_expert_load_counts_the_choices_of_the_tokens_at_home():
    expert_ids = [torch.tensor([[0, 1, 2, 3], [3, 4, 1, 6]]), torch.tensor([[7, 6, 5, 3]])]

    def work(collectives: ThreadCollectives) -> list[int]:
        dispatcher = make_dispatcher(make_exchange(ThreadLink(collectives), "padded"), COPIES[2])
        mine = expert_ids[collectives.rank]
        dispatcher.begin_step(2)
        for _ in range(2):
            grouped, handle = dispatcher.dispatch(torch.zeros(len(mine), D).bfloat16(), mine)
            dispatcher.combine(grouped.rows, handle)
        return dispatcher.expert_load.tolist()

    assert run_ranks(2, work) == [[2, 4, 2, 4, 2, 0, 2, 0], [0, 0, 0, 2, 0, 2, 2, 2]]


def test_rows_of_local_experts_and_the_time_in_all_to_alls_count_on_through_epochs():
    expert_ids = [torch.tensor([[0, 1, 2, 3], [3, 4, 1, 6]]), torch.tensor([[7, 6, 5, 3]])]

    def work(collectives: ThreadCollectives) -> tuple[int, list[int]]:
        exchange = make_exchange(ThreadLink(collectives), "exact")
        load = None
        for _ in range(2):
            placement = contiguous(E, 2)
            tables = [copy_table(placement, home, ["host"] * 2) for home in range(2)]
            dispatcher = AllToAllTokenDispatcher(exchange, tables, placement.local_slots(exchange.rank), load)
            mine = expert_ids[collectives.rank]
            dispatcher.begin_step(2)
            grouped, handle = dispatcher.dispatch(torch.zeros(len(mine), D).bfloat16(), mine)
            dispatcher.combine(grouped.rows, handle)
            assert exchange.traffic.all_to_all_s > 0
            load = dispatcher.expert_load
            exchange = exchange.of_epoch(collectives.rank, 2)
        return int(exchange.traffic.num_rows), load.tolist()

    first, second = run_ranks(2, work)
    assert first == (2 * 7, [2, 4, 2, 4, 2, 0, 2, 0])  # experts 0 to 3 were chosen six and one times
    assert second == (2 * 5, [0, 0, 0, 2, 0, 2, 2, 2])


def test_a_lost_rank_breaks_dispatch():
    x, expert_ids = random_tokens(torch.Generator().manual_seed(7), 2)

    def work(collectives: ThreadCollectives) -> None:
        dispatcher = make_dispatcher(make_exchange(ThreadLink(collectives), "padded"), contiguous(E, 2))
        dispatcher.begin_step(2)
        if collectives.rank == 1:
            return collectives.close()
        with pytest.raises(GroupBrokenError):
            dispatcher.dispatch(x, expert_ids)
        return None

    run_ranks(2, work)
