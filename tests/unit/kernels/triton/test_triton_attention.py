"""The attention kernels under Triton's interpreter, at sizes that make splits, tiles and blocks many."""

from __future__ import annotations

import random

import pytest
import torch

from gptoss_ray.kernels.kernels import HeadShape
from gptoss_ray.kernels.reference_kernels import ReferenceKernels
from gptoss_ray.kernels.triton.attention import AttentionTiles, TritonAttention
from tests.support.paged_rows import PagedRows

HEADS = HeadShape(num_heads=8, num_kv_heads=2, head_dim=16)
TILES = AttentionTiles(lanes=16, keys=16, split=32)
WINDOWS = [None, 1, 20]


class Run:
    """A cache that batches of rows go through, one after the other, as in an engine."""

    def __init__(self, paged, window, *, tiles=TILES, max_slots=1 << 10, dtype=torch.bfloat16):
        self.paged, self.window = paged, window
        self.kernels = TritonAttention(torch.device("cpu"), tiles, max_slots=max_slots)
        self.keys, self.values = paged.cache(dtype)

    def __call__(self, rows):
        batch = self.paged.batch(rows, self.window)
        plan = self.kernels.plan(batch, self.paged.heads, self.paged.block_size)
        qkv = self.paged.stacked(rows)
        return self.kernels.attend(qkv, plan, self.keys, self.values, self.paged.sinks)


def reference(paged, window, rows):
    """All rows in one batch, in float32."""
    kernels = ReferenceKernels(torch.float32)
    plan = kernels.plan_attention(paged.batch(rows, window), paged.heads, paged.block_size)
    keys, values = paged.cache(torch.float32)
    return kernels.attention(paged.stacked(rows).float(), plan, keys, values, paged.sinks)


@pytest.mark.parametrize("block_size", [8, 32])
@pytest.mark.parametrize("window", WINDOWS)
def test_rows_of_several_sequences_attend_as_the_reference_does(window, block_size):
    paged = PagedRows([3, 70, 9], HEADS, block_size)
    rows = [row for sequence in range(3) for row in paged.all_rows(sequence)]
    torch.testing.assert_close(
        Run(paged, window)(rows).float(), reference(paged, window, rows), atol=2e-2, rtol=2e-2
    )


@pytest.mark.parametrize("num_heads", [2, 6, 32])
def test_any_number_of_heads_may_share_keys(num_heads):
    heads = HeadShape(num_heads, 2, 16)
    paged = PagedRows([37], heads, 16)
    rows = paged.all_rows(0)
    run = Run(paged, None, tiles=AttentionTiles(lanes=32, keys=32, split=32))
    torch.testing.assert_close(run(rows).float(), reference(paged, None, rows), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("window", WINDOWS)
def test_a_row_has_the_same_bits_alone_in_any_chunks_and_beside_any_other_rows(window):
    """Contexts over several splits; a row's splits go through one program or through one each."""
    paged = PagedRows([110, 45], HEADS, 8)
    whole = Run(paged, window)([*paged.all_rows(0), *paged.all_rows(1)])
    expected = {row: whole[place] for place, row in enumerate([*paged.all_rows(0), *paged.all_rows(1)])}
    generator = random.Random(1)
    for max_slots in (0, 9, 1 << 10):
        run = Run(paged, window, max_slots=max_slots)
        done = [0, 0]
        while done != paged.lengths:
            ends = [
                min(length, start + generator.choice([0, 1, 1, 2, 3, 30]))
                for start, length in zip(done, paged.lengths, strict=True)
            ]
            rows = [
                row for sequence in (1, 0) for row in paged.all_rows(sequence, done[sequence], ends[sequence])
            ]
            for row, result in zip(rows, run(rows) if rows else [], strict=True):
                assert torch.equal(result, expected[row]), (max_slots, row)
            done = ends


def test_rows_may_come_in_any_order():
    paged = PagedRows([40, 9], HEADS, 16)
    rows = [*paged.all_rows(0), *paged.all_rows(1)]
    expected = Run(paged, None)(rows)
    order = random.Random(2).sample(range(len(rows)), len(rows))
    assert torch.equal(Run(paged, None)([rows[place] for place in order]), expected[order])


def test_what_breaks_one_sequence_leaves_the_others_their_bits():
    paged = PagedRows([40, 70], HEADS, 16)
    rows = [*paged.all_rows(0), *paged.all_rows(1)]
    expected = Run(paged, None)(rows)
    paged.qkv[0, 12].fill_(torch.nan)
    out = Run(paged, None)(rows)
    assert torch.equal(out[40:], expected[40:])
    assert torch.equal(out[:12], expected[:12])
    assert out[12:40].isnan().any(1).all()


def test_parts_of_a_split_row_wait_for_no_layer_but_their_own():
    """The workspace is handed on from layer to layer without being cleared."""
    paged = PagedRows([100], HEADS, 16)
    run = Run(paged, None)
    run(paged.all_rows(0, 0, 99))
    first, second = run(paged.all_rows(0, 99)), run(paged.all_rows(0, 99))
    assert torch.equal(first, second)
    assert torch.equal(first, Run(paged, None)(paged.all_rows(0))[99:])
    assert not run.kernels._slots(HEADS)[2].any()


def test_a_strong_sink_takes_the_weight_and_gives_no_value():
    paged = PagedRows([50], HEADS, 16)
    paged.sinks[:] = 1e4
    assert not Run(paged, None)(paged.all_rows(0)).any()


def test_an_8_bit_cache_holds_rounded_keys_and_values_and_keeps_large_ones_finite():
    paged = PagedRows([40], HEADS, 16)
    paged.qkv[0, 3] *= 1000
    rows = paged.all_rows(0)
    run = Run(paged, None, dtype=torch.float8_e4m3fn)
    out = run(rows)
    exact = Run(paged, None)
    exact(rows)
    blocks, offsets = paged.table[0, torch.arange(40) // 16].long(), torch.arange(40) % 16
    for narrow, wide in ((run.keys, exact.keys), (run.values, exact.values)):
        stored, given = narrow.float()[blocks, :, offsets], wide.float()[blocks, :, offsets]
        torch.testing.assert_close(stored, given.clamp(-448, 448), atol=2e-3, rtol=0.07)
    assert out.isfinite().all()


def test_no_rows_need_no_launch():
    paged = PagedRows([10], HEADS, 16)
    run = Run(paged, None)
    empty = paged.batch([], None)
    plan = run.kernels.plan(empty, HEADS, 16)
    qkv = torch.empty(0, 12 * 16, dtype=torch.bfloat16)
    assert run.kernels.attend(qkv, plan, run.keys, run.values, paged.sinks).shape == (0, 128)


@pytest.mark.parametrize(
    "sizes", [{"split": 40, "keys": 16}, {"lanes": 64, "keys": 4, "split": 16}, {"lanes": 2}]
)
def test_tiles_that_would_straddle_blocks_of_keys_are_refused(sizes):
    with pytest.raises(AssertionError):
        AttentionTiles(**sizes).rows(HEADS)
