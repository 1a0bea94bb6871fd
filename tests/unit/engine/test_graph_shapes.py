from __future__ import annotations

import pytest

from gptoss_ray.engine.graph_shapes import block_counts, row_counts, rows_of_exchange, smallest


@pytest.mark.parametrize("max_num_rows", [1, 3, 8, 9, 64, 100, 256, 1000])
def test_every_number_of_rows_has_a_graph_that_is_little_larger(max_num_rows):
    counts = row_counts(max_num_rows)
    assert counts[-1] == max_num_rows
    assert list(counts) == sorted(set(counts))
    for num_rows in range(1, max_num_rows + 1):
        count = smallest(counts, num_rows)
        assert count is not None
        assert count - num_rows < 8 or count <= 1.25 * num_rows
        assert num_rows < 33 or count - num_rows <= count / 5


def test_few_graphs_serve_many_rows():
    assert len(row_counts(256)) <= 20


@pytest.mark.parametrize("max_context", [100, 2048, 5000, 131_072])
def test_block_tables_of_graphs_hold_the_longest_context_and_some_that_are_shorter(max_context):
    counts = block_counts(max_context, 32)
    assert counts[-1] * 32 >= max_context > (counts[-1] - 1) * 32
    assert list(counts) == sorted(set(counts))
    assert (len(counts) == 3) == (max_context > 16_384)


def test_nothing_is_large_enough_for_more_than_the_largest():
    assert smallest((1, 2, 4), 5) is None


@pytest.mark.parametrize("max_num_rows", [1, 8, 64, 100])
def test_ranks_exchange_rows_for_the_graph_that_holds_what_was_agreed_on_or_for_just_as_many(max_num_rows):
    counts = row_counts(max_num_rows)
    for max_num_tokens in range(2 * max_num_rows):
        num_rows = rows_of_exchange(counts, max_num_tokens)
        assert num_rows >= max_num_tokens
        assert (num_rows in counts) == (max_num_tokens <= max_num_rows)
        # A rank that decodes fewer rows finds the same, having agreed on the same number.
        assert num_rows == rows_of_exchange(counts, num_rows)
