from __future__ import annotations

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.paged_attention import max_pairs_at_once, paged_attention, plan_attention
from tests.support.threads import torch_threads

BLOCK = 16
KV_HEADS, HEAD_DIM = 2, 32


class PagedKeys:
    """Random keys and values of sequences, in shuffled blocks; slots behind a sequence's end hold rubbish."""

    def __init__(self, lengths: list[int], num_heads: int = 8, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(seed)
        counts = [-(-length // BLOCK) for length in lengths]
        self.keys = torch.randn(sum(counts) + 2, KV_HEADS, BLOCK, HEAD_DIM, generator=generator)
        self.values = torch.randn(self.keys.shape, generator=generator)
        blocks = torch.randperm(sum(counts) + 2, generator=generator).tolist()
        self.table = torch.full((len(lengths), max(counts)), -1, dtype=torch.int32)
        for row, count in enumerate(counts):
            self.table[row, :count] = torch.tensor([blocks.pop() for _ in range(count)])
        self.sinks = torch.randn(num_heads, generator=generator)
        self.rows = [(s, p) for s, length in enumerate(lengths) for p in range(length)]
        self.q = torch.randn(len(self.rows), num_heads, HEAD_DIM, generator=generator)

    def attend(self, rows: list[int], window: int | None, max_pairs: int = 1 << 20) -> Tensor:
        sequences = torch.tensor([self.rows[row][0] for row in rows], dtype=torch.int64)
        positions = torch.tensor([self.rows[row][1] for row in rows], dtype=torch.int64)
        plans = plan_attention(
            positions, sequences, self.table, block_size=BLOCK, window=window, max_pairs=max_pairs
        )
        out = torch.full((len(rows), self.q[0].numel()), torch.nan)
        paged_attention(self.q[rows], self.keys, self.values, plans, self.sinks, out)
        return out

    def expected(self, row: int, window: int | None) -> Tensor:
        """The textbook formula in float64."""
        sequence, position = self.rows[row]
        seen = range(0 if window is None else max(0, position - window + 1), position + 1)
        blocks = self.table[sequence, [p // BLOCK for p in seen]].long()
        offsets = torch.tensor([p % BLOCK for p in seen])
        groups = self.q.shape[1] // KV_HEADS
        keys = self.keys[blocks, :, offsets].double().repeat_interleave(groups, dim=1)
        values = self.values[blocks, :, offsets].double().repeat_interleave(groups, dim=1)
        scores = torch.einsum("hd,phd->hp", self.q[row].double(), keys) / HEAD_DIM**0.5
        weights = torch.cat((scores, self.sinks[:, None]), dim=1).softmax(-1)[:, :-1]
        return torch.einsum("hp,phd->hd", weights, values).flatten()


@pytest.mark.parametrize("num_heads", [2, 6, 16])
@pytest.mark.parametrize("window", [None, 1, 5, 16, 40])
def test_every_row_attends_to_its_own_sequence_up_to_itself_within_its_window(window, num_heads):
    paged = PagedKeys([1, 50, 16, 33], num_heads)
    out = paged.attend(list(range(100)), window)
    expected = torch.stack([paged.expected(row, window) for row in range(100)])
    torch.testing.assert_close(out.double(), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("num_heads", [2, 8])
@pytest.mark.parametrize("window", [None, 20])
def test_a_row_has_the_same_bits_whatever_the_batch_the_pieces_and_the_threads(window, num_heads):
    paged = PagedKeys([40, 7, 100], num_heads)
    alone = torch.cat([paged.attend([row], window) for row in range(len(paged.rows))])
    generator = torch.Generator().manual_seed(3)
    for num_threads in (1, 2):
        with torch_threads(num_threads):
            for num_rows, max_pairs in ((1, 100), (2, 100), (3, 1), (17, 20), (64, 100), (147, 1000)):
                rows = torch.randperm(len(paged.rows), generator=generator)[:num_rows].tolist()
                assert torch.equal(paged.attend(rows, window, max_pairs), alone[rows])


def test_blocks_outside_the_window_are_never_looked_up():
    paged = PagedKeys([100])
    before = paged.attend([99], 20)
    paged.table[0, : (99 - 19) // BLOCK] = -1
    assert torch.equal(paged.attend([99], 20), before)
    plans = plan_attention(
        torch.tensor([99]), torch.tensor([0]), paged.table, block_size=BLOCK, window=20, max_pairs=100
    )
    assert plans[0].pair_blocks.tolist() == paged.table[0, 5:7].tolist()


def test_keys_behind_the_row_and_before_its_window_do_not_matter():
    paged = PagedKeys([40])
    before = paged.attend([20], 8)
    hidden = [p for p in range(40) if not 20 - 8 < p <= 20]
    blocks = paged.table[0, [p // BLOCK for p in hidden]].long()
    paged.keys[blocks, :, [p % BLOCK for p in hidden]] = 1e4
    paged.values[blocks, :, [p % BLOCK for p in hidden]] = 1e4
    assert torch.equal(paged.attend([20], 8), before)


def test_a_strong_sink_takes_the_weight_and_gives_no_value():
    paged = PagedKeys([10])
    paged.sinks[:] = 1e4
    assert not paged.attend([9], None).any()


def test_large_scores_do_not_overflow():
    paged = PagedKeys([40])
    paged.q *= 1e4
    assert paged.attend(list(range(40)), None).isfinite().all()


def test_no_rows_need_no_plan():
    paged = PagedKeys([10])
    assert paged.attend([], None).shape == (0, 8 * HEAD_DIM)


def test_the_memory_bound_allows_at_least_one_pair():
    assert max_pairs_at_once(1 << 20, 64, 64, 1 << 10) == 1
    assert max_pairs_at_once(32, 8, 64, 64) > 500
