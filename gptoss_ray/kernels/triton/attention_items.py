"""What the attention kernel works on: a list made on the device, once a step and kind of layer."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def list_items_kernel(
    positions,
    sequence_index,
    items,
    counts,
    num_rows,
    max_slots,
    WINDOW: tl.constexpr,
    ROWS: tl.constexpr,
    SPLIT: tl.constexpr,
    MAX_SPLITS: tl.constexpr,
):
    """List the tile that row program_id(0) begins, if it begins one.

    A tile goes through all splits of its keys in one item, or has an item for each split. Which, and the
    order of the list, changes no result. Tiles with all ROWS rows come from chunks, which have many of them;
    single rows and drafts are split while their parts fit `max_slots` (one a row and split).

    positions and sequence_index int64 [num_rows], counts int32 [2] all 0: items and slots so far; items int32
    [num_rows + max_slots, 4]: first row, number of rows, split or -1 for all, first slot of the tile.
    """
    row = tl.program_id(0)
    first, sequence = tl.load(positions + row), tl.load(sequence_index + row)
    before = tl.maximum(row - 1, 0)
    goes_on = (
        (row > 0)
        & (first % ROWS > 0)
        & (tl.load(positions + before) == first - 1)
        & (tl.load(sequence_index + before) == sequence)
    )
    if not goes_on:
        mates = tl.arange(0, ROWS)
        is_row = row + mates < num_rows
        mate_positions = tl.load(positions + row + mates, mask=is_row, other=-2)
        mate_sequences = tl.load(sequence_index + row + mates, mask=is_row, other=-1)
        is_mate = (mate_positions == first + mates) & (mate_sequences == sequence)
        is_mate = is_mate & (first % ROWS + mates < ROWS)
        num_mates = tl.min(tl.where(is_mate, ROWS, mates), 0)

        num_splits = (first // SPLIT + 1).to(tl.int32)
        num_items, slot = 1, 0
        if WINDOW == 0:
            if (num_splits > 1) & (num_mates < ROWS):
                slot = tl.atomic_add(counts + 1, num_mates * num_splits)
                if slot + num_mates * num_splits <= max_slots:
                    num_items = num_splits
        at = tl.atomic_add(counts, num_items)
        number = tl.arange(0, MAX_SPLITS)
        item = items + (at + number) * 4
        is_item = number < num_items
        tl.store(item, row, mask=is_item)
        tl.store(item + 1, num_mates, mask=is_item)
        tl.store(item + 2, tl.where(num_items == 1, -1, number), mask=is_item)
        tl.store(item + 3, slot, mask=is_item)
