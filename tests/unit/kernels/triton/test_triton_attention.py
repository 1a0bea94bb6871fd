"""The attention kernels under Triton's interpreter, at sizes that make splits, tiles and blocks many."""

from __future__ import annotations

import random

import pytest
import torch

from gptoss_ray.kernels.kernels import HeadShape
from gptoss_ray.kernels.triton.attention import AttentionTiles, TritonAttention
from tests.support.attention_runs import AttentionRun, reference_attention
from tests.support.paged_rows import PagedRows

HEADS = HeadShape(num_heads=8, num_kv_heads=2, head_dim=16)
TILES = AttentionTiles(lanes=16, keys=16, split=32)
WINDOWS = [None, 1, 20]
FP8 = torch.float8_e4m3fn


def run_over(paged, window, **kwargs):
    kwargs.setdefault("tiles", TILES)
    return AttentionRun(paged, window, torch.device("cpu"), **kwargs)


@pytest.mark.parametrize("block_size", [8, 32])
@pytest.mark.parametrize("window", WINDOWS)
def test_rows_of_several_sequences_attend_as_the_reference_does(window, block_size):
    paged = PagedRows([3, 70, 9], HEADS, block_size)
    rows = [row for sequence in range(3) for row in paged.all_rows(sequence)]
    torch.testing.assert_close(
        run_over(paged, window)(rows).float(), reference_attention(paged, window, rows), atol=2e-2, rtol=2e-2
    )


@pytest.mark.parametrize("num_heads", [2, 6, 32])
def test_any_number_of_heads_may_share_keys(num_heads):
    heads = HeadShape(num_heads, 2, 16)
    paged = PagedRows([37], heads, 16)
    rows = paged.all_rows(0)
    run = run_over(paged, None, tiles=AttentionTiles(lanes=32, keys=32, split=32))
    torch.testing.assert_close(
        run(rows).float(), reference_attention(paged, None, rows), atol=2e-2, rtol=2e-2
    )


@pytest.mark.parametrize(
    ("window", "dtype"),
    [*((window, torch.bfloat16) for window in WINDOWS), (None, FP8), (20, FP8)],
)
def test_a_row_has_the_same_bits_alone_in_any_chunks_and_beside_any_other_rows(window, dtype):
    """Contexts over several splits; a row's splits go through one program or through one each."""
    paged = PagedRows([70, 20], HEADS, 8)
    expected = run_over(paged, window, dtype=dtype).whole()
    for max_slots in (0, 9, 1 << 10):
        run = run_over(paged, window, dtype=dtype, max_slots=max_slots)
        run.assert_same_bits_in_chunks(expected, [0, 1, 3, 30], seed=max_slots)


def test_rows_may_come_in_any_order():
    paged = PagedRows([40, 9], HEADS, 16)
    rows = [*paged.all_rows(0), *paged.all_rows(1)]
    expected = run_over(paged, None)(rows)
    order = random.Random(2).sample(range(len(rows)), len(rows))
    assert torch.equal(run_over(paged, None)([rows[place] for place in order]), expected[order])


@pytest.mark.parametrize("dtype", [torch.bfloat16, FP8])
def test_what_breaks_one_sequence_leaves_the_others_their_bits(dtype):
    paged = PagedRows([40, 70], HEADS, 16)
    rows = [*paged.all_rows(0), *paged.all_rows(1)]
    expected = run_over(paged, None, dtype=dtype)(rows)
    paged.qkv[0, 12].fill_(torch.nan)
    out = run_over(paged, None, dtype=dtype)(rows)
    assert torch.equal(out[40:], expected[40:])
    assert torch.equal(out[:12], expected[:12])
    assert out[12:40].isnan().any(1).all()


def test_parts_of_a_split_row_wait_for_no_layer_but_their_own():
    """The workspace is handed on from layer to layer without being cleared."""
    paged = PagedRows([100], HEADS, 16)
    run = run_over(paged, None)
    run(paged.all_rows(0, 0, 99))
    first, second = run(paged.all_rows(0, 99)), run(paged.all_rows(0, 99))
    assert torch.equal(first, second)
    assert torch.equal(first, run_over(paged, None)(paged.all_rows(0))[99:])
    assert not run.kernels._slots(HEADS)[2].any()


def test_a_strong_sink_takes_the_weight_and_gives_no_value():
    paged = PagedRows([50], HEADS, 16)
    paged.sinks[:] = 1e4
    assert not run_over(paged, None)(paged.all_rows(0)).any()


@pytest.mark.parametrize("window", [None, 20])
def test_an_8_bit_cache_is_attended_to_as_its_values_in_bfloat16(window):
    """They are exact there, so the result has the same bits."""
    paged = PagedRows([70, 9], HEADS, 16)
    rows = [*paged.all_rows(0), *paged.all_rows(1)]
    run = run_over(paged, window, dtype=FP8)
    plan = run.kernels.plan(paged.batch(rows, window), HEADS, 16)
    q = run.project(paged.stacked(rows), plan)
    assert run.keys.dtype == run.values.dtype == FP8
    wide = run.kernels.attend(q, plan, run.keys.bfloat16(), run.values.bfloat16(), paged.sinks)
    assert torch.equal(run.kernels.attend(q, plan, run.keys, run.values, paged.sinks), wide)


def test_an_8_bit_cache_holds_rounded_keys_and_values_and_keeps_large_ones_finite():
    paged = PagedRows([40], HEADS, 16)
    paged.qkv[0, 3] *= 1000
    rows = paged.all_rows(0)
    run = run_over(paged, None, dtype=FP8)
    out = run(rows)
    exact = run_over(paged, None)
    exact(rows)
    blocks, offsets = paged.table[0, torch.arange(40) // 16].long(), torch.arange(40) % 16
    for narrow, wide in ((run.keys, exact.keys), (run.values, exact.values)):
        stored, given = narrow.float()[blocks, :, offsets], wide.float()[blocks, :, offsets]
        torch.testing.assert_close(stored, given.clamp(-448, 448), atol=2e-3, rtol=0.07)
    assert out.isfinite().all()


def test_no_rows_need_no_launch():
    paged = PagedRows([10], HEADS, 16)
    run = run_over(paged, None)
    empty = paged.batch([], None)
    plan = run.kernels.plan(empty, HEADS, 16)
    assert run.attend(torch.empty(0, 12 * 16, dtype=torch.bfloat16), plan).shape == (0, 128)


@pytest.mark.parametrize(
    "sizes", [{"split": 40, "keys": 16}, {"lanes": 64, "keys": 4, "split": 16}, {"lanes": 2}]
)
def test_tiles_that_would_straddle_blocks_of_keys_are_refused(sizes):
    with pytest.raises(AssertionError):
        AttentionTiles(**sizes).rows(HEADS)


@pytest.mark.parametrize(
    ("window", "max_slots", "splits"), [(None, 4, [0, 1, 2, 3]), (None, 3, [-1]), (20, 4, [-1])]
)
def test_splits_of_a_row_go_to_programs_of_their_own_while_there_is_room_for_its_parts(
    window, max_slots, splits
):
    paged = PagedRows([100], HEADS, 16)
    kernels = TritonAttention(torch.device("cpu"), TILES, max_slots=max_slots)
    plan = kernels.plan(paged.batch([(0, 99)], window), HEADS, 16)
    assert plan.items[: plan.counts[0], 2].tolist() == splits


def test_whole_tiles_of_a_chunk_go_through_their_splits_in_one_program_each():
    paged = PagedRows([100], HEADS, 16)
    kernels = TritonAttention(torch.device("cpu"), TILES)
    plan = kernels.plan(paged.batch(paged.all_rows(0, 40), None), HEADS, 16)
    assert plan.items[: plan.counts[0], :3].tolist() == [[row, 4, -1] for row in range(0, 60, 4)]
