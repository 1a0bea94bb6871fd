"""Native attention against the textbook formula and the reference, and to the bit against itself."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from gptoss_ray.kernels.kernels import AttentionRows, HeadShape, Kernels
from gptoss_ray.kernels.reference import rotate
from gptoss_ray.kernels.reference_kernels import ReferenceKernels

BF16 = torch.bfloat16
HEADS = HeadShape(num_heads=6, num_kv_heads=2, head_dim=32)
# Half a unit in the last place of a bfloat16 result, and what the order of sums may do.
TOLERANCE = {"rtol": 2**-8, "atol": 1e-3}


class Sequences:
    """Tokens of sequences of given lengths, and a cache of shuffled blocks in which every slot is NaN.

    Attributes:
        rows: Every token's (sequence, position).
        qkv: [tokens, (heads + 2 kv_heads) D].
        table: Block ids, -1 behind a sequence's end.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        heads: HeadShape = HEADS,
        *,
        window: int | None = None,
        block_size: int = 16,
        table_seed: int = 0,
    ) -> None:
        generator = torch.Generator().manual_seed(1)
        self.heads, self.window, self.block_size = heads, window, block_size
        self.rows = [(s, p) for s, length in enumerate(lengths) for p in range(length)]
        width = (heads.num_heads + 2 * heads.num_kv_heads) * heads.head_dim
        self.qkv = torch.randn(len(self.rows), width, generator=generator).to(BF16)
        self.sinks = torch.randn(heads.num_heads, generator=generator)
        angles = torch.rand(max(lengths), heads.head_dim // 2, generator=generator) * 6.28
        self.cos, self.sin = 1.2 * angles.cos(), 1.2 * angles.sin()

        counts = [-(-length // block_size) for length in lengths]
        generator = torch.Generator().manual_seed(table_seed)
        blocks = torch.randperm(sum(counts) + 3, generator=generator).tolist()
        self.table = torch.full((len(lengths), max(counts)), -1, dtype=torch.int32)
        for sequence, count in enumerate(counts):
            self.table[sequence, :count] = torch.tensor([blocks.pop() for _ in range(count)])
        self.keys, self.values = self.new_cache(), self.new_cache()

    def new_cache(self) -> Tensor:
        num_blocks = int(self.table.max()) + 3
        shape = (num_blocks, self.heads.num_kv_heads, self.block_size, self.heads.head_dim)
        return torch.full(shape, torch.nan, dtype=BF16)

    def attend(self, kernels: Kernels, rows: Sequence[int]) -> Tensor:
        """Write the rows' keys and values, and attend."""
        index = torch.tensor(rows)
        sequences = torch.tensor([self.rows[row][0] for row in rows])
        positions = torch.tensor([self.rows[row][1] for row in rows])
        blocks = self.table[sequences, positions // self.block_size].long()
        attention_rows = AttentionRows(
            positions=positions,
            sequence_index=sequences,
            slot_mapping=blocks * self.block_size + positions % self.block_size,
            block_table=self.table,
            cos=self.cos[positions],
            sin=self.sin[positions],
            window=self.window,
        )
        plan = kernels.plan_attention(attention_rows, self.heads, self.block_size)
        return kernels.attention(self.qkv[index], plan, self.keys, self.values, self.sinks)

    def attend_in_chunks(self, kernels: Kernels, chunks: Sequence[Sequence[int]]) -> Tensor:
        """Attend chunk after chunk from an empty cache → the results of all rows."""
        self.keys, self.values = self.new_cache(), self.new_cache()
        out = torch.full((len(self.rows), self.heads.num_heads * self.heads.head_dim), torch.nan).to(BF16)
        for chunk in chunks:
            out[list(chunk)] = self.attend(kernels, chunk)
        return out

    def attend_to_all(self, kernels: Kernels) -> Tensor:
        """Attend all rows at once, from an empty cache."""
        return self.attend_in_chunks(kernels, [range(len(self.rows))])

    def expected(self, row: int) -> Tensor:
        """The textbook formula in float64, of rotated queries and keys in bfloat16."""
        sequence, position = self.rows[row]
        first = 0 if self.window is None else max(0, position - self.window + 1)
        seen = [other for other, (s, p) in enumerate(self.rows) if s == sequence and first <= p <= position]
        heads, group = self.heads, self.heads.num_heads // self.heads.num_kv_heads
        by_head = self.qkv.view(len(self.rows), -1, heads.head_dim)
        positions = [p for _, p in self.rows]
        rotated = rotate(by_head, self.cos[positions, None], self.sin[positions, None]).to(BF16).double()
        q = rotated[row, : heads.num_heads]
        k = rotated[seen, heads.num_heads : -heads.num_kv_heads].repeat_interleave(group, dim=1)
        v = by_head[seen, -heads.num_kv_heads :].double().repeat_interleave(group, dim=1)
        scores = torch.einsum("hd,phd->hp", q, k) / heads.head_dim**0.5
        weights = torch.cat((scores, self.sinks[:, None]), dim=1).softmax(-1)[:, :-1]
        return torch.einsum("hp,phd->hd", weights, v).flatten()


def by_pair(keys: Tensor) -> Tensor:
    """Native keys as they lie in the cache: [num_blocks, kv_heads, block_size / 16, D / 2, 16 slots, 2]."""
    num_blocks, kv_heads, block_size, head_dim = keys.shape
    return keys.view(num_blocks, kv_heads, block_size // 16, head_dim // 2, 16, 2)


def by_slot(keys: Tensor) -> Tensor:
    """Native keys as the reference keeps them: [num_blocks, kv_heads, block_size, D]."""
    return by_pair(keys).permute(0, 1, 2, 4, 3, 5).reshape(keys.shape)


def bits(x: Tensor) -> Tensor:
    return x.view(torch.int16)


@pytest.mark.parametrize("window", [None, 1, 5, 16, 40])
def test_every_row_attends_to_its_own_sequence_up_to_itself_within_its_window(kernels, window):
    sequences = Sequences([1, 50, 16, 33], window=window)
    out = sequences.attend_to_all(kernels)
    expected = torch.stack([sequences.expected(row) for row in range(100)])
    torch.testing.assert_close(out.double(), expected, **TOLERANCE)


@pytest.mark.parametrize("head_dim", [16, 32, 48, 64, 80, 256])
@pytest.mark.parametrize("group", [1, 2, 3, 7, 8, 13, 16])
def test_heads_of_all_widths_in_groups_of_all_sizes(kernels, head_dim, group):
    sequences = Sequences([70], HeadShape(3 * group, 3, head_dim))
    out = sequences.attend_to_all(kernels)
    expected = torch.stack([sequences.expected(row) for row in (0, 1, 15, 16, 63, 64, 69)])
    torch.testing.assert_close(out[[0, 1, 15, 16, 63, 64, 69]].double(), expected, **TOLERANCE)


@pytest.mark.parametrize("window", [None, 1500])
def test_rows_around_the_borders_of_the_pieces_that_keys_are_reduced_in(kernels, window):
    sequences = Sequences([2100], HeadShape(4, 2, 16), window=window)
    out = sequences.attend_to_all(kernels)
    rows = [1022, 1023, 1024, 1025, 1499, 1500, 2046, 2047, 2048, 2099]
    expected = torch.stack([sequences.expected(row) for row in rows])
    torch.testing.assert_close(out[rows].double(), expected, **TOLERANCE)


@pytest.mark.parametrize("window", [None, 24])
def test_the_cache_has_the_bits_of_the_reference_and_results_are_close(kernels, window):
    sequences = Sequences([90, 200], HeadShape(16, 2, 64), window=window, block_size=32)
    out = sequences.attend_to_all(kernels)
    keys, values = by_slot(sequences.keys), sequences.values
    sequences.keys, sequences.values = sequences.new_cache(), sequences.new_cache()
    reference = sequences.attend(ReferenceKernels(BF16), range(len(sequences.rows)))
    was_written = ~keys.isnan()
    assert torch.equal(bits(keys)[was_written], bits(sequences.keys)[was_written])
    assert torch.equal(bits(values)[was_written], bits(sequences.values)[was_written])
    assert was_written.sum() == 290 * 2 * 64
    # The reference does not round the queries.
    torch.testing.assert_close(out.float(), reference.float(), rtol=2e-2, atol=2e-2)


@pytest.mark.parametrize("window", [None, 20])
def test_a_row_has_the_same_bits_in_any_batch_on_any_number_of_threads(kernels, other_kernels, window):
    sequences = Sequences([40, 7, 1150], HeadShape(10, 2, 16), window=window)
    together = sequences.attend_to_all(kernels)
    shuffled = random.Random(2)
    for num_rows in (1, 1, 2, 3, 17, 64, len(sequences.rows)):
        rows = shuffled.sample(range(len(sequences.rows)), num_rows)
        assert torch.equal(sequences.attend(kernels, rows), together[rows])
        assert torch.equal(sequences.attend(other_kernels, rows), together[rows])


@pytest.mark.parametrize("window", [None, 128])
def test_prompts_have_the_same_bits_in_any_chunks(kernels, other_kernels, window):
    """All at once, tasks take whole rows, for splits of so many would need too much memory; else splits."""
    sequences = Sequences([2300, 300], HeadShape(32, 2, 16), window=window)
    count = len(sequences.rows)
    together = sequences.attend_to_all(kernels)
    assert together.isfinite().all()
    for chunk in (997, 130):
        chunks = [range(start, min(start + chunk, count)) for start in range(0, count, chunk)]
        assert torch.equal(sequences.attend_in_chunks(other_kernels, chunks), together)
    alone = [row for row in range(count) if sequences.rows[row][1] % 331 == 330 or row > count - 5]
    assert torch.equal(torch.cat([sequences.attend(kernels, [row]) for row in alone]), together[alone])


@pytest.mark.parametrize("window", [None, 50])
def test_neither_the_order_nor_the_size_of_blocks_changes_a_bit(kernels, window):
    lengths = [1100, 64]
    expected = Sequences(lengths, window=window).attend_to_all(kernels)
    for block_size, table_seed in ((16, 1), (32, 2), (48, 3), (64, 4), (1024, 5)):
        sequences = Sequences(lengths, window=window, block_size=block_size, table_seed=table_seed)
        assert torch.equal(sequences.attend_to_all(kernels), expected)


def test_blocks_before_the_window_may_have_been_freed(kernels):
    sequences = Sequences([400], window=60)
    before = sequences.attend_to_all(kernels)
    for rows in ([399], [390, 395, 399], list(range(350, 400))):
        first_block = (rows[0] - 59) // 16
        freed = sequences.table[0, :first_block].long()
        sequences.keys[freed], sequences.values[freed] = torch.nan, torch.nan
        kept = sequences.table.clone()
        sequences.table[0, :first_block] = -1
        assert torch.equal(sequences.attend(kernels, rows), before[rows])
        sequences.table = kept
        sequences.attend_to_all(kernels)


@pytest.mark.parametrize("rubbish", [torch.nan, torch.inf, 1e30])
def test_keys_behind_the_row_and_before_its_window_do_not_matter(kernels, rubbish):
    sequences = Sequences([100], window=30)
    before = sequences.attend_to_all(kernels)
    for row in (70, 77, 80):
        blocks = sequences.table[0].long()
        hidden = [p for p in range(100) if not row - 30 < p <= row]
        at, slots = blocks[[p // 16 for p in hidden]], [p % 16 for p in hidden]
        by_pair(sequences.keys)[at, :, 0, :, slots] = rubbish
        sequences.values[at, :, slots] = rubbish
        assert torch.equal(sequences.attend(kernels, [row]), before[[row]])
        sequences.attend_to_all(kernels)


def test_a_strong_sink_takes_the_weight_and_gives_no_value(kernels):
    sequences = Sequences([10])
    sequences.sinks[:] = 1e4
    assert not sequences.attend_to_all(kernels).any()


def test_a_sink_of_minus_infinity_is_none(kernels):
    sequences = Sequences([1])
    sequences.sinks[:] = -torch.inf
    v = sequences.qkv[0].view(-1, 32)[-2:].repeat_interleave(3, dim=0).flatten()
    assert torch.equal(sequences.attend_to_all(kernels)[0], v)


def test_large_scores_do_not_overflow(kernels):
    sequences = Sequences([1500])
    sequences.qkv[:, : 6 * 32] *= 1e4
    assert sequences.attend_to_all(kernels).isfinite().all()


def test_a_block_id_that_a_row_sees_must_be_in_the_cache(kernels):
    sequences = Sequences([100])
    for wrong in (-1, len(sequences.keys)):
        sequences.table[0, 2] = wrong
        sequences.attend(kernels, [31])
        with pytest.raises(ValueError, match=r"block_table\[0, 2\] is"):
            sequences.attend(kernels, [99])


@pytest.mark.parametrize(
    ("heads", "block_size", "name"),
    [
        (HeadShape(17, 1, 16), 16, "num_heads"),
        (HeadShape(3, 2, 16), 16, "num_heads"),
        (HeadShape(2, 2, 24), 16, "head_dim"),
        (HeadShape(2, 2, 272), 16, "head_dim"),
        (HeadShape(2, 2, 16), 24, "block_size"),
    ],
)
def test_shapes_that_the_kernels_have_no_code_for_are_refused(kernels, heads, block_size, name):
    with pytest.raises(ValueError, match=name):
        Sequences([10], heads, block_size=block_size).attend_to_all(kernels)
