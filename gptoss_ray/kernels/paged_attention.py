"""Attention of query rows over the paged KV cache (torch reference).

Law 1: a row meets the keys of its sequence in spans and blocks that its position alone decides, and
each meeting is a matmul of a shape that never changes: the query heads of one row and one KV head with one
piece of keys. Rows of a group share what is gathered, never a matmul. Maxima and sums over a row's pieces
are taken in their order. A row may meet blocks of which it sees no key, because others of its group do:
they leave its maximum alone and add zeros.

Shapes (`AttentionPiece`): N groups, W rows of each, P pairs, G query heads per KV head, D head_dim, K keys
of a pair.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_ray.kernels.attention_plan import AttentionPiece, Pairs

# Bounds the float32 copies of gathered keys and values, and the scores; does not change any result.
_MAX_GATHERED_ELEMENTS = 1 << 24
# Rows of a group whose scores are together larger go one after the other; does not change any result.
_MAX_SCORE_ELEMENTS = 1 << 20


def max_blocks_at_once(block_size: int, num_kv_heads: int, num_heads: int, head_dim: int) -> int:
    """Return how many blocks fit the memory set aside for gathered keys and values, and scores."""
    per_block = 2 * num_kv_heads * block_size * head_dim + num_heads * (block_size + head_dim)
    return max(1, _MAX_GATHERED_ELEMENTS // per_block)


def write_slots(keys: Tensor, values: Tensor, slot_mapping: Tensor, k: Tensor, v: Tensor) -> None:
    """Store k and v [T, kv_heads, D] in slots [T] (block id · block_size + offset) of keys and values."""
    block_ids, offsets = slot_mapping // keys.shape[2], slot_mapping % keys.shape[2]
    keys[block_ids, :, offsets] = k
    values[block_ids, :, offsets] = v


def paged_attention(
    q: Tensor, keys: Tensor, values: Tensor, pieces: list[AttentionPiece], sinks: Tensor, out: Tensor
) -> None:
    """Attend from q float32 [T, heads, D] (unscaled) and write out [T, heads · D].

    keys, values [num_blocks, kv_heads, block_size, D]; sinks float32 [heads] are an extra logit per
    head that takes weight and gives no value. Scores are scaled by 1 / sqrt(D). float32 inside.
    """
    num_rows, num_heads, head_dim = q.shape
    kv_heads, block_size = keys.shape[1:3]
    grouped = q.mul(head_dim**-0.5).view(num_rows, kv_heads, num_heads // kv_heads, head_dim)
    for piece in pieces:
        pairs = [pairs for pairs in (piece.spans, piece.blocks) if len(pairs.groups)]
        met = [(each, _gather(keys, each), _gather(values, each)) for each in pairs]
        _clear(met[-1][2], piece.unseen)
        num_keys = block_size * sum(each.blocks.numel() for each in pairs)
        rows_at_once = max(1, _MAX_SCORE_ELEMENTS // (num_keys * num_heads))
        for start in range(0, len(piece.rows), rows_at_once):
            rows = piece.rows[start : start + rows_at_once].flatten()
            hidden = piece.hidden[start : start + rows_at_once]
            queries = grouped.index_select(0, rows).view(len(hidden), -1, *grouped.shape[1:])
            attended = _attend(queries, met, hidden, sinks.view(kv_heads, -1, 1))
            out.index_copy_(0, rows, attended.view(-1, num_heads * head_dim).to(out.dtype))


def _gather(cache: Tensor, pairs: Pairs) -> Tensor:
    """Return the keys or values float32 [P · kv_heads, K, D] of the pairs."""
    num_pairs, width = pairs.blocks.shape
    _, kv_heads, block_size, head_dim = cache.shape
    blocks = cache.index_select(0, pairs.blocks.flatten()).view(num_pairs, width, *cache.shape[1:])
    pieces = cache.new_empty(num_pairs, kv_heads, width, block_size, head_dim, dtype=torch.float32)
    return pieces.copy_(blocks.transpose(1, 2)).view(-1, width * block_size, head_dim)


def _clear(values: Tensor, unseen: Tensor) -> None:
    """Zero what is unseen [P, 1, K, 1] of values [P · kv_heads, K, D]: 0, its weight, times NaN is NaN."""
    values.view(len(unseen), -1, *values.shape[1:]).masked_fill_(unseen, 0.0)


def _attend(q: Tensor, met: list[tuple[Pairs, Tensor, Tensor]], hidden: Tensor, sinks: Tensor) -> Tensor:
    """Attend from scaled q [W, N, kv_heads, G, D] over what is met: pairs with their keys and values.

    The last of `met` are the single blocks, which `hidden` belongs to. Returns the shape of q.
    """
    scores = [_matmul(q.index_select(1, pairs.groups), keys.transpose(1, 2)) for pairs, keys, _ in met]
    scores[-1].masked_fill_(hidden, -torch.inf)

    maxima = sinks.expand(*q.shape[:-1], 1).clone()
    for (pairs, _, _), piece_scores in zip(met, scores, strict=True):
        piece_maxima = piece_scores.amax(-1, keepdim=True)
        index = pairs.groups.view(-1, 1, 1, 1).expand_as(piece_maxima)
        maxima.scatter_reduce_(1, index, piece_maxima, "amax")

    # The last column carries the sum of weights, so that one addition does for both.
    total = torch.cat((torch.zeros_like(q), torch.exp(sinks - maxima)), dim=-1)
    for (pairs, _, values), piece_scores in zip(met, scores, strict=True):
        weights = piece_scores.sub_(maxima.index_select(1, pairs.groups)).exp_()
        weighted = torch.cat((_matmul(weights, values), weights.sum(-1, keepdim=True)), dim=-1)
        # On a CPU index_add_ adds one pair after the other, in their order.
        total.index_add_(1, pairs.groups, weighted)
    return total[..., :-1] / total[..., -1:]


def _matmul(rows: Tensor, shared: Tensor) -> Tensor:
    """Return rows [W, P, kv_heads, G, A] @ shared [P · kv_heads, A, B] → [W, P, kv_heads, G, B]."""
    result = rows.new_empty(*rows.shape[:-1], shared.shape[2])
    for row, row_result in zip(rows.flatten(1, 2), result.flatten(1, 2), strict=True):
        torch.bmm(row, shared, out=row_result)
    return result
