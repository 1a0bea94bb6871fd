"""Draws from rows of logits, each by itself, in launches whose grids do not depend on the rows.

The draw is `engine/draw.py`'s: inverse CDF over the token ids, behind temperature, top_k, top_p and min_p in
that order. Weights are summed as integers, multiples of 2⁻⁴⁴ of the most likely token's, so no sum depends on
an order; each filter is a threshold and, among tokens that lie on it, a last id.

Legend: L rows, V vocabulary, C chunks of CHUNK tokens. Rows of temperature 0 are greedy; rows whose largest
logit is not finite draw -1.
"""

from __future__ import annotations

import triton
import triton.language as tl

_UNIT = tl.constexpr(2.0**44)
_LOWEST_KEY = tl.constexpr(0)


@triton.jit
def _logits_of(logits, suppressed, token, is_token):
    """Load logits of tokens, -inf for suppressed ones and where there is none; no negative zeros."""
    x = tl.load(logits + token, mask=is_token, other=float("-inf"))
    is_suppressed = tl.load(suppressed + token, mask=is_token, other=1) != 0
    return tl.where(is_suppressed, float("-inf"), x) + 0.0


@triton.jit
def _is_nan(x):
    return x != x  # noqa: PLR0124


@triton.jit
def _key(x):
    """Return int64 in [0, 2³²) in the order of floats."""
    bits = x.to(tl.int32, bitcast=True).to(tl.int64)
    return tl.where(bits < 0, -1 - bits, bits + (1 << 31))


@triton.jit
def _weight(x, best, temperature):
    """Return the weight in float32, 1 for the most likely token."""
    return tl.exp(tl.div_rn(x - best, tl.maximum(temperature, 1e-6)))


@triton.jit
def _units(weight):
    """Return the weight in whole units."""
    return (weight * _UNIT).to(tl.int64)


@triton.jit
def _kept_units(x, token, best, temperature, min_p, thresholds):
    """Return the weight in units, 0 for what a filter takes out."""
    key, weight = _key(x), _weight(x, best, temperature)
    weight_key = weight.to(tl.int32, bitcast=True).to(tl.int64)
    least_key, last_key_id = tl.load(thresholds), tl.load(thresholds + 1)
    least_weight, last_weight_id = tl.load(thresholds + 2), tl.load(thresholds + 3)
    is_kept = (key > least_key) | ((key == least_key) & (token <= last_key_id))
    is_kept &= (weight_key > least_weight) | ((weight_key == least_weight) & (token <= last_weight_id))
    return tl.where(is_kept & (weight >= min_p), _units(weight), 0)


@triton.jit
def chunk_best_kernel(logits, suppressed, bests, best_ids, VOCAB: tl.constexpr, CHUNK: tl.constexpr):
    """Find each chunk's largest logit [L, C] and its lowest id [L, C]; NaN where there is any."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = chunk * CHUNK + tl.arange(0, CHUNK)
    x = _logits_of(logits + row * VOCAB, suppressed, token, token < VOCAB)
    best = tl.max(x, 0)
    best_id = tl.min(tl.where(x == best, token, VOCAB), 0)
    num_nans = tl.sum(_is_nan(x).to(tl.int32), 0)
    at = row * tl.num_programs(1) + chunk
    tl.store(bests + at, tl.where(num_nans > 0, float("nan"), best))
    tl.store(best_ids + at, best_id)


@triton.jit
def row_best_kernel(
    bests,
    best_ids,
    top_k,
    best_of_row,
    drawn,
    floors,
    thresholds,
    num_candidates,
    VOCAB: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    CHUNKS: tl.constexpr,
):
    """Find each row's largest logit and draw its id, -1 if it is not finite; open all filters.

    floors int64 [L]: a key that at least top_k logits reach, because so many chunks' largest do.
    """
    row = tl.program_id(0)
    chunk = tl.arange(0, CHUNKS)
    is_chunk = chunk < NUM_CHUNKS
    chunk_best = tl.load(bests + row * NUM_CHUNKS + chunk, mask=is_chunk, other=float("-inf"))
    best = tl.max(chunk_best, 0)
    best_id = tl.load(best_ids + row * NUM_CHUNKS + chunk, mask=is_chunk, other=VOCAB)
    best_id = tl.min(tl.where(chunk_best == best, best_id, VOCAB), 0)
    is_broken = tl.sum(_is_nan(chunk_best).to(tl.int32), 0) > 0
    is_broken |= (best == float("inf")) | (best == float("-inf"))
    tl.store(best_of_row + row, best)
    tl.store(drawn + row, tl.where(is_broken, -1, best_id))
    tl.store(num_candidates + row, 0)
    for pair in tl.static_range(2):
        tl.store(thresholds + row * 4 + 2 * pair, _LOWEST_KEY)
        tl.store(thresholds + row * 4 + 2 * pair + 1, VOCAB)

    wanted = tl.load(top_k + row)
    floor = tl.zeros([], tl.int64)
    if wanted <= NUM_CHUNKS:
        key = tl.where(is_chunk, _key(chunk_best), -1)
        for place in range(32):
            higher = floor | (tl.full([], 1 << 31, tl.int64) >> place)
            floor = tl.where(tl.sum((key >= higher).to(tl.int32), 0) >= wanted, higher, floor)
    tl.store(floors + row, floor)


@triton.jit
def weigh_kernel(
    logits,
    suppressed,
    best_of_row,
    drawn,
    temperature,
    top_k,
    top_p,
    floors,
    sums,
    candidates,
    num_candidates,
    VOCAB: tl.constexpr,
    CHUNK: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
):
    """Sum each chunk's weights [L, C], and list the tokens that decide a filter's threshold."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heat = tl.load(temperature + row)
    if (heat > 0.0) & (tl.load(drawn + row) >= 0):
        token = chunk * CHUNK + tl.arange(0, CHUNK)
        x = _logits_of(logits + row * VOCAB, suppressed, token, token < VOCAB)
        weight = _weight(x, tl.load(best_of_row + row), heat)
        tl.store(sums + row * tl.num_programs(1) + chunk, tl.sum(_units(weight), 0))

        wanted, share = tl.load(top_k + row), tl.load(top_p + row)
        has_top_k = (wanted > 0) & (wanted < VOCAB)
        if has_top_k | (share < 1.0):
            # All tokens lighter than this weigh less than half of what a nucleus leaves out.
            negligible = ((1.0 - share) * (0.5 / VOCAB)).to(tl.float32)
            is_candidate = tl.where(has_top_k, _key(x) >= tl.load(floors + row), weight > negligible)
            is_candidate &= token < VOCAB
            count = is_candidate.to(tl.int32)
            first = tl.atomic_add(num_candidates + row, tl.sum(count, 0))
            place = first + tl.cumsum(count, 0) - 1
            is_listed = is_candidate & (place < MAX_CANDIDATES)
            tl.store(candidates + row * MAX_CANDIDATES + place, token, mask=is_listed)


@triton.jit
def filter_kernel(
    logits,
    suppressed,
    best_of_row,
    drawn,
    temperature,
    top_k,
    top_p,
    sums,
    candidates,
    num_candidates,
    thresholds,
    VOCAB: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    CHUNKS: tl.constexpr,
    TILE: tl.constexpr,
    MAX_CANDIDATES: tl.constexpr,
):
    """Find the thresholds int64 [L, 4] of top_k and top_p, each a key and the last id that is kept on it.

    Goes through the listed candidates, or through the whole row where they are too many, one bit at a time.
    """
    row = tl.program_id(0).to(tl.int64)
    heat, wanted, share = tl.load(temperature + row), tl.load(top_k + row), tl.load(top_p + row)
    has_top_k = (wanted > 0) & (wanted < VOCAB)
    if (heat > 0.0) & (tl.load(drawn + row) >= 0) & (has_top_k | (share < 1.0)):
        logits += row * VOCAB
        candidates += row * MAX_CANDIDATES
        best = tl.load(best_of_row + row)
        listed = tl.load(num_candidates + row)
        is_whole = listed > MAX_CANDIDATES
        count = tl.where(is_whole, VOCAB, listed)
        least_key, last_key_id = tl.full([], _LOWEST_KEY, tl.int64), tl.full([], VOCAB, tl.int64)
        if has_top_k:
            least_key, last_key_id = _find(
                logits, suppressed, candidates, count, is_whole, best, heat, least_key, last_key_id,
                wanted.to(tl.int64), VOCAB, TILE, False,
            )  # fmt: skip
            tl.store(thresholds + row * 4, least_key)
            tl.store(thresholds + row * 4 + 1, last_key_id)
        if share < 1.0:
            if has_top_k:
                total = _sum_from(
                    logits, suppressed, candidates, count, is_whole, best, heat, least_key, last_key_id,
                    0, VOCAB, TILE, True,
                )  # fmt: skip
            else:
                chunk = tl.arange(0, CHUNKS)
                total = tl.sum(tl.load(sums + row * NUM_CHUNKS + chunk, mask=chunk < NUM_CHUNKS, other=0), 0)
            needed = tl.maximum(tl.ceil(share * total.to(tl.float64)).to(tl.int64), 1)
            least_weight, last_weight_id = _find(
                logits, suppressed, candidates, count, is_whole, best, heat, least_key, last_key_id,
                needed, VOCAB, TILE, True,
            )  # fmt: skip
            tl.store(thresholds + row * 4 + 2, least_weight)
            tl.store(thresholds + row * 4 + 3, last_weight_id)


@triton.jit
def _sum_from(
    logits,
    suppressed,
    candidates,
    count,
    is_whole,
    best,
    heat,
    least_key,
    last_key_id,
    least,
    end_id,
    TILE: tl.constexpr,
    BY_WEIGHT: tl.constexpr,
):
    """Sum over candidates above `least`, and on it over those with ids before end_id.

    By weight: the units of those that top_k left. Else: how many they are, by logit.
    """
    total = tl.zeros([], tl.int64)
    for start in range(0, count, TILE):
        place = start + tl.arange(0, TILE)
        is_token = place < count
        token = tl.load(candidates + place, mask=is_token & (is_whole == 0), other=0)
        token = tl.where(is_whole, place, token)
        x = _logits_of(logits, suppressed, token, is_token)
        key = _key(x)
        amount = is_token.to(tl.int64)
        if BY_WEIGHT:
            is_left = (key > least_key) | ((key == least_key) & (token <= last_key_id))
            weight = _weight(x, best, heat)
            key = weight.to(tl.int32, bitcast=True).to(tl.int64)
            amount = tl.where(is_left, _units(weight), 0)
        is_above = (key > least) | ((key == least) & (token < end_id))
        total += tl.sum(tl.where(is_token & is_above, amount, 0), 0)
    return total


@triton.jit
def _find(
    logits,
    suppressed,
    candidates,
    count,
    is_whole,
    best,
    heat,
    least_key,
    last_key_id,
    needed,
    VOCAB: tl.constexpr,
    TILE: tl.constexpr,
    BY_WEIGHT: tl.constexpr,
):
    """Return the highest key from which on they add up to `needed`, and the last id needed on it."""
    least, reached = tl.zeros([], tl.int64), tl.full([], 1 << 62, tl.int64)
    for place in range(32):
        higher = least | (tl.full([], 1 << 31, tl.int64) >> place)
        amount = _sum_from(
            logits, suppressed, candidates, count, is_whole, best, heat, least_key, last_key_id,
            higher, VOCAB, TILE, BY_WEIGHT,
        )  # fmt: skip
        least, reached = (
            tl.where(amount >= needed, higher, least),
            tl.where(amount >= needed, amount, reached),
        )
    each = tl.full([], 1, tl.int64)
    if BY_WEIGHT:
        each = _units(least.to(tl.int32).to(tl.float32, bitcast=True))
    last_id = tl.full([], VOCAB, tl.int64)
    if reached - needed >= each:  # not all on the threshold are needed: those of the lowest ids are
        last_id = tl.zeros([], tl.int64)
        for place in range(20):  # ids are below 2²⁰
            later = last_id | (tl.full([], 1 << 19, tl.int64) >> place)
            amount = _sum_from(
                logits, suppressed, candidates, count, is_whole, best, heat, least_key, last_key_id,
                least, later, TILE, BY_WEIGHT,
            )  # fmt: skip
            last_id = tl.where(amount < needed, later, last_id)
    return least, last_id


@triton.jit
def kept_sums_kernel(
    logits,
    suppressed,
    best_of_row,
    drawn,
    temperature,
    top_k,
    top_p,
    min_p,
    thresholds,
    sums,
    VOCAB: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Sum each chunk's weights [L, C] again, without what the row's filters take out, if it has any."""
    row, chunk = tl.program_id(0).to(tl.int64), tl.program_id(1)
    heat, wanted, least = tl.load(temperature + row), tl.load(top_k + row), tl.load(min_p + row)
    has_filter = ((wanted > 0) & (wanted < VOCAB)) | (tl.load(top_p + row) < 1.0) | (least > 0.0)
    if (heat > 0.0) & (tl.load(drawn + row) >= 0) & has_filter:
        token = chunk * CHUNK + tl.arange(0, CHUNK)
        x = _logits_of(logits + row * VOCAB, suppressed, token, token < VOCAB)
        kept = _kept_units(x, token, tl.load(best_of_row + row), heat, least, thresholds + row * 4)
        tl.store(sums + row * tl.num_programs(1) + chunk, tl.sum(kept, 0))


@triton.jit
def draw_kernel(
    logits,
    suppressed,
    best_of_row,
    drawn,
    temperature,
    min_p,
    uniform,
    thresholds,
    sums,
    VOCAB: tl.constexpr,
    NUM_CHUNKS: tl.constexpr,
    CHUNKS: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Draw the first token up to which the kept weights add up to more than `uniform` of them all."""
    row = tl.program_id(0).to(tl.int64)
    heat = tl.load(temperature + row)
    if (heat > 0.0) & (tl.load(drawn + row) >= 0):
        number = tl.arange(0, CHUNKS)
        chunk_sums = tl.load(sums + row * NUM_CHUNKS + number, mask=number < NUM_CHUNKS, other=0)
        total = tl.sum(chunk_sums, 0)
        target = (tl.load(uniform + row) * total.to(tl.float64)).to(tl.int64)
        target = tl.minimum(target, total - 1)
        ends = tl.cumsum(chunk_sums, 0)
        chunk = tl.sum((ends <= target).to(tl.int32), 0)
        target -= tl.sum(tl.where(number < chunk, chunk_sums, 0), 0)

        place = tl.arange(0, CHUNK)
        token = chunk * CHUNK + place
        x = _logits_of(logits + row * VOCAB, suppressed, token, token < VOCAB)
        kept = _kept_units(
            x, token, tl.load(best_of_row + row), heat, tl.load(min_p + row), thresholds + row * 4
        )
        inside = tl.sum((tl.cumsum(kept, 0) <= target).to(tl.int32), 0)
        tl.store(drawn + row, chunk * CHUNK + inside)
