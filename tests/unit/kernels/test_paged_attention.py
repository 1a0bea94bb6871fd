from __future__ import annotations

import random

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.attention_plan import AttentionPiece, plan_attention
from gptoss_ray.kernels.paged_attention import max_blocks_at_once, paged_attention, write_slots
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

    def plan(self, rows: list[int], window: int | None, max_blocks: int = 1 << 20) -> list[AttentionPiece]:
        return plan_attention(
            torch.tensor([self.rows[row][1] for row in rows], dtype=torch.int64),
            torch.tensor([self.rows[row][0] for row in rows], dtype=torch.int64),
            self.table,
            block_size=BLOCK,
            window=window,
            max_blocks=max_blocks,
        )

    def attend(self, rows: list[int], window: int | None, max_blocks: int = 1 << 20) -> Tensor:
        plans = self.plan(rows, window, max_blocks)
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


@pytest.mark.parametrize("num_heads", [2, 6, 8, 34])
@pytest.mark.parametrize("window", [None, 20])
def test_a_row_has_the_same_bits_whatever_the_batch_the_pieces_and_the_threads(window, num_heads):
    paged = PagedKeys([40, 7, 150], num_heads)
    alone = torch.cat([paged.attend([row], window) for row in range(len(paged.rows))])
    generator = torch.Generator().manual_seed(3)
    for num_threads in (1, 2):
        with torch_threads(num_threads):
            for num_rows, max_blocks in ((1, 100), (2, 100), (3, 1), (17, 20), (64, 100), (197, 1000)):
                rows = torch.randperm(len(paged.rows), generator=generator)[:num_rows].tolist()
                assert torch.equal(paged.attend(rows, window, max_blocks), alone[rows])


@pytest.mark.parametrize("window", [None, 100])
@pytest.mark.parametrize("num_heads", [8, 16])
def test_long_prompts_have_the_same_bits_in_any_chunks_beside_any_decode_rows(window, num_heads):
    """Chunks end anywhere; the rows of some stand in one batch with single rows at other contexts."""
    lengths = [3000, 700, 64, 1]
    paged = PagedKeys(lengths, num_heads)
    generator = random.Random(5)
    last_rows = [sum(lengths[: number + 1]) - 1 for number in range(len(lengths))]
    checked = sorted({0, 63, 64, 127, 2999, *generator.sample(range(sum(lengths)), 60)})
    alone = torch.stack([paged.attend([row], window)[0] for row in checked])
    for chunk_tokens, num_threads in ((1 << 20, 1), (500, 2), (128, 1), (97, 2)):
        with torch_threads(num_threads):
            rows, start = [], 0
            together = torch.full((len(paged.rows), alone.shape[1]), torch.nan)
            while start < len(paged.rows):
                end = start + generator.randint(1, chunk_tokens)
                rows = list(range(start, min(end, len(paged.rows))))
                rows += [row for row in last_rows if row not in rows]
                generator.shuffle(rows)
                together[rows] = paged.attend(rows, window, generator.choice([10, 1000]))
                start = end
            assert torch.equal(together[checked], alone)


def test_rows_of_a_chunk_share_what_is_gathered():
    paged = PagedKeys([1000])
    (decode,) = paged.plan([991], None)
    (chunk,) = paged.plan(list(range(976, 992)), None)
    assert (
        chunk.spans.blocks.tolist()
        == decode.spans.blocks.tolist()
        == paged.table[0, :60].view(15, 4).tolist()
    )
    assert (
        chunk.blocks.blocks.tolist() == decode.blocks.blocks.tolist() == paged.table[0, 60:62, None].tolist()
    )


def test_blocks_that_no_row_of_the_group_sees_are_never_looked_up():
    """They may have been freed, or belong to a request whose numbers are broken."""
    paged = PagedKeys([100])
    rows = [97, 99]
    before = paged.attend(rows, 20)
    seen = paged.table[0, (97 - 19) // BLOCK :].clone()
    foreign = [block for block in range(len(paged.keys)) if block not in seen.tolist()]
    paged.table[0, : (97 - 19) // BLOCK] = -1
    paged.keys[foreign] = torch.nan
    paged.values[foreign] = torch.nan
    assert torch.equal(paged.attend(rows, 20), before)


@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, 1e30])
def test_keys_behind_the_row_and_before_its_window_do_not_matter(rubbish):
    paged = PagedKeys([40])
    before = paged.attend([20], 8)
    hidden = [p for p in range(40) if not 20 - 8 < p <= 20]
    blocks = paged.table[0, [p // BLOCK for p in hidden]].long()
    paged.keys[blocks, :, [p % BLOCK for p in hidden]] = rubbish
    paged.values[blocks, :, [p % BLOCK for p in hidden]] = rubbish
    assert torch.equal(paged.attend([20], 8), before)


def test_a_strong_sink_takes_the_weight_and_gives_no_value():
    paged = PagedKeys([10])
    paged.sinks[:] = 1e4
    assert not paged.attend([9], None).any()


def test_large_scores_do_not_overflow():
    paged = PagedKeys([40])
    paged.q *= 1e4
    assert paged.attend(list(range(40)), None).isfinite().all()


def test_what_is_written_to_slots_is_read_back_by_block_and_offset():
    keys, values = torch.zeros(2, 6, KV_HEADS, 4, 3)
    k, v = torch.randn(2, 3, KV_HEADS, 3)
    write_slots(keys, values, torch.tensor([5 * 4 + 1, 0, 2 * 4 + 3]), k, v)
    for token, (block_id, offset) in enumerate([(5, 1), (0, 0), (2, 3)]):
        assert keys[block_id, :, offset].equal(k[token])
        assert values[block_id, :, offset].equal(v[token])
    assert keys.count_nonzero() == k.numel()


def test_no_rows_need_no_plan():
    paged = PagedKeys([10])
    assert paged.attend([], None).shape == (0, 8 * HEAD_DIM)


def test_the_memory_bound_allows_at_least_one_pair():
    assert max_blocks_at_once(1 << 20, 64, 64, 1 << 10) == 1
    assert max_blocks_at_once(32, 8, 64, 64) > 400
