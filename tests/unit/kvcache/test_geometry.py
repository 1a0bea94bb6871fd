from __future__ import annotations

import pytest

from gptoss_ray.kvcache.geometry import KVGeometry


def test_the_first_window_block_holds_the_first_key_that_the_row_reads():
    geometry = KVGeometry(block_size=4, window=6, max_chunk=8)
    for position in range(100):
        first_key = max(0, position - 5)
        assert geometry.first_window_block(position) == first_key // 4


@pytest.mark.parametrize("shape", [(4, 6, 8), (16, 128, 1), (1, 1, 1), (8, 3, 5)])
def test_the_peak_is_the_worst_alignment_of_a_chunk_and_its_window(shape):
    block_size, window, max_chunk = shape
    geometry = KVGeometry(block_size, window, max_chunk)
    num_touched = max(
        (start + max_chunk - 1) // block_size - geometry.first_window_block(start) + 1
        for start in range(window, window + 4 * block_size)
    )
    assert geometry.num_window_blocks_at_peak(10**6) == num_touched
    assert geometry.num_window_blocks_at_peak(block_size) == 1


@pytest.mark.parametrize("num_blocks", range(40))
def test_the_longest_sequence_fits_and_a_block_more_does_not(num_blocks):
    geometry = KVGeometry(block_size=4, window=6, max_chunk=8)

    def num_needed(num_tokens):
        return geometry.num_blocks(num_tokens) + geometry.num_window_blocks_at_peak(num_tokens)

    longest = geometry.max_tokens_in(num_blocks)
    assert num_needed(longest) <= num_blocks < num_needed(longest + 1)
