"""Attention on a card, at the published models' heads: right, and the same bits however rows come (law 1)."""

from __future__ import annotations

import pytest
import torch

from gptoss_ray.kernels.kernels import HeadShape
from tests.support.attention_runs import AttentionRun, on_device, reference_attention
from tests.support.paged_rows import PagedRows

pytestmark = [pytest.mark.gpu, pytest.mark.timeout(900)]
GPU = torch.device("cuda")
HEADS = HeadShape(num_heads=64, num_kv_heads=8, head_dim=64)
WINDOWS = [None, 128]


@pytest.mark.parametrize("block_size", [16, 32, 64])
@pytest.mark.parametrize("window", WINDOWS)
def test_rows_attend_as_the_reference_does(window, block_size):
    paged = PagedRows([1200, 3, 130], HEADS, block_size)
    rows = [row for sequence in range(3) for row in paged.all_rows(sequence)]
    out = AttentionRun(paged, window, GPU)(rows)
    torch.testing.assert_close(out.float(), reference_attention(paged, window, rows), atol=2e-2, rtol=2e-2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn])
@pytest.mark.parametrize("window", WINDOWS)
def test_a_row_has_the_same_bits_alone_in_any_chunks_and_beside_any_other_rows(window, dtype):
    """Decoding, drafts and chunks of 24 sequences, over up to four splits; with room for parts or without."""
    paged = PagedRows([1800, 1030, *range(1, 670, 31)], HEADS, 32)
    expected = AttentionRun(paged, window, GPU, dtype=dtype).whole()
    for max_slots in (0, 100, 4096):
        run = AttentionRun(paged, window, GPU, dtype=dtype, max_slots=max_slots)
        run.assert_same_bits_in_chunks(expected, [1, 1, 4, 9, 512], seed=max_slots)


def test_a_captured_step_fits_other_sequences_and_contexts():
    paged = PagedRows([900, 40, 2000], HEADS, 32)
    run, eager = (AttentionRun(paged, None, GPU) for _ in range(2))
    before = [row for sequence in range(3) for row in paged.all_rows(sequence, 0, -1)]
    run(before)
    eager(before)
    captured, replayed = [(0, 899), (1, 39)], [(2, 1999), (0, 899)]
    batch = on_device(paged.batch(captured, None), GPU)
    qkv = paged.stacked(captured).to(GPU)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        plan = run.kernels.plan(batch, HEADS, 32)
        out = run.attend(qkv, plan)
    other = on_device(paged.batch(replayed, None), GPU)
    for name in ("positions", "sequence_index", "slot_mapping", "cos", "sin"):
        getattr(batch, name).copy_(getattr(other, name))
    qkv.copy_(paged.stacked(replayed))
    graph.replay()
    assert torch.equal(out.cpu(), eager(replayed))
