// A tile of rows meets a split of the keys of one KV head: scores, online softmax, weighted values.
//
// Law 1: keys are met in groups of 16, steps of 64 and splits of 1024, which stand at absolute
// positions, so that a row's position (and window) alone decides which sums it takes and in which
// order. Rows of a tile share what is read, never a sum; nor does a sum know the size of a block.
//
// Shapes: G query heads of the KV head, D head dimension.
#pragma once

#include "attention_load.inl"
#include "softmax_state.inl"

namespace gr::GR_NAMESPACE {

// Heads and columns of values that go through the inner loops at once: as many sums as fit the
// registers of the instruction set.
#if defined(__AVX512F__)
constexpr int kHeadsAtOnce = 8, kColumnsAtOnce = 2;
#elif defined(__AVX2__)
constexpr int kHeadsAtOnce = 4, kColumnsAtOnce = 1;
#else
constexpr int kHeadsAtOnce = 2, kColumnsAtOnce = 1;
#endif

template <int N>
struct Count {
  static constexpr int kValue = N;
};

// Calls fn(Count<n>(), i) for runs of n from `i` to before `end`: n is MOST, then its half, ...
template <int MOST, class Fn>
GR_INLINE void for_runs(int64_t i, int64_t end, const Fn& fn) {
  for (; i + MOST <= end; i += MOST) fn(Count<MOST>(), i);
  if constexpr (MOST > 1) for_runs<MOST / 2>(i, end, fn);
}

// scores [HEADS, kStepKeys] of HEADS of `heads` queries with the 16 keys of a group. Meanwhile
// fetches the group's values, a line for each line of keys: all at once would hold the loop up.
template <int HEADS>
static inline void score_group(const uint16_t* queries, const uint16_t* keys,
                               const uint16_t* values, int64_t heads, int64_t head_dim, F32 scale,
                               float* scores) {
  F32 sums[HEADS];
  for (int head = 0; head < HEADS; ++head) sums[head] = zero();
  for (int64_t pair = 0; pair < head_dim / 2; ++pair) {
    const Pairs key_pairs = load_pairs(keys + pair * 2 * kGroupKeys);
    prefetch_far(values + pair * 2 * kGroupKeys);
    const uint16_t* query_pairs = queries + pair * 2 * heads;
    for (int head = 0; head < HEADS; ++head) {
      sums[head] = dot(sums[head], key_pairs, broadcast_pair(query_pairs + 2 * head));
    }
  }
  for (int head = 0; head < HEADS; ++head) {
    store(scores + head * kStepKeys, mul(sums[head], scale));
  }
}

// sums [HEADS, 16 · COLUMNS of D] = sums · factors + weights [HEADS, kStepKeys] @ values, for the
// keys `seen` alone: other slots may hold what is no number, and 0 · NaN is NaN. Meanwhile
// fetches the next step's keys.
template <int HEADS, int COLUMNS>
static inline void add_values(const StepCache& step, KeyRange seen, int64_t column,
                              const float* weights, const float* factors, int64_t head_dim,
                              float* sums) {
  F32 totals[HEADS][COLUMNS];
  for (int head = 0; head < HEADS; ++head) {
    const F32 factor = set(factors[head]);
    for (int i = 0; i < COLUMNS; ++i) {
      totals[head][i] = mul(load(sums + head * head_dim + kLanes * i), factor);
    }
  }
  for (int64_t key = seen.begin; key < seen.end;) {
    const int64_t group = key / kGroupKeys;
    const int64_t group_end = smaller(seen.end, (group + 1) * kGroupKeys);
    const int64_t offset = key % kGroupKeys * head_dim + column;
    const uint16_t* x = step.values[group] + offset;
    const uint16_t* next = step.next_keys[group] + offset;
    for (; key < group_end; ++key, x += head_dim, next += head_dim) {
      prefetch_far(next);
      F32 value[COLUMNS];
      for (int i = 0; i < COLUMNS; ++i) value[i] = load_bf16(x + kLanes * i);
      for (int head = 0; head < HEADS; ++head) {
        const F32 weight = set(weights[head * kStepKeys + key]);
        for (int i = 0; i < COLUMNS; ++i) {
          totals[head][i] = fma(weight, value[i], totals[head][i]);
        }
      }
    }
  }
  for (int head = 0; head < HEADS; ++head) {
    for (int i = 0; i < COLUMNS; ++i) {
      store(sums + head * head_dim + kLanes * i, totals[head][i]);
    }
  }
}

// Scores [G, kStepKeys] become weights 2^(score - maximum) of the keys `seen`, and 0 for the
// others of their groups. Raises the maxima, adds to the weight sums, and gives the factors [16] by
// which what was summed before shrinks.
static inline void weigh_scores(KeyRange seen, int64_t heads, const SoftmaxState& state,
                                float* weights, float* factors) {
  const int64_t begin = seen.begin / kGroupKeys * kGroupKeys;
  const int64_t end = (seen.end + kGroupKeys - 1) / kGroupKeys * kGroupKeys;
  float maxima[kMaxGroupHeads];
  store(maxima, load(state.maxima()));
  for (int64_t head = 0; head < heads; ++head) {
    float* scores = weights + head * kStepKeys;
    for (int64_t key = begin; key < seen.begin; ++key) scores[key] = kNothing;
    for (int64_t key = seen.end; key < end; ++key) scores[key] = kNothing;
    F32 highest = load(scores + begin);
    for (int64_t key = begin + kGroupKeys; key < end; key += kGroupKeys) {
      highest = max(highest, load(scores + key));
    }
    maxima[head] = larger(maxima[head], largest(highest));
  }
  store(factors, exp2(sub(load(state.maxima()), load(maxima))));
  store(state.maxima(), load(maxima));
  for (int64_t head = 0; head < heads; ++head) {
    float* scores = weights + head * kStepKeys;
    const F32 maximum = set(maxima[head]);
    F32 total = mul(load(state.weight_sums(head)), set(factors[head]));
    for (int64_t key = begin; key < end; key += kGroupKeys) {
      const F32 weight = exp2(sub(load(scores + key), maximum));
      store(scores + key, weight);
      total = add(total, weight);
    }
    store(state.weight_sums(head), total);
  }
}

// One row meets the keys `seen` of a step, counted from its begin.
static inline void meet_step(const gr_attention_args& args, const StepCache& step, KeyRange seen,
                             const uint16_t* queries, const TileBuffers& buffers,
                             const SoftmaxState& state) {
  const int64_t heads = state.heads, head_dim = state.head_dim;
  const F32 scale = set(kLog2E / __builtin_sqrtf(static_cast<float>(args.head_dim)));
  for (int64_t key = seen.begin / kGroupKeys * kGroupKeys; key < seen.end; key += kGroupKeys) {
    for_runs<kHeadsAtOnce>(0, heads, [&](auto count, int64_t head) {
      score_group<decltype(count)::kValue>(
          queries + 2 * head, step.keys[key / kGroupKeys], step.values[key / kGroupKeys], heads,
          head_dim, scale, buffers.weights + head * kStepKeys + key);
    });
  }
  float factors[kMaxGroupHeads];
  weigh_scores(seen, heads, state, buffers.weights, factors);
  for_runs<kHeadsAtOnce>(0, heads, [&](auto num_heads, int64_t head) {
    const float* weights = buffers.weights + head * kStepKeys;
    for_runs<kColumnsAtOnce>(0, head_dim / kLanes, [&](auto num_columns, int64_t i) {
      add_values<decltype(num_heads)::kValue, decltype(num_columns)::kValue>(
          step, seen, i * kLanes, weights, factors + head, head_dim,
          state.values(head) + i * kLanes);
    });
  });
}

// The rows of a tile meet the keys `seen` [rows], all of one split; states [rows] were cleared. The
// tile's queries are loaded.
static inline void meet_split(const gr_attention_args& args, Tile tile, int64_t kv_head,
                              const KeyRange* seen, const TileBuffers& buffers,
                              const SoftmaxState* states) {
  const int64_t query_size = args.num_heads / args.num_kv_heads * args.head_dim;
  KeyRange all{INT64_MAX, 0};
  for (int64_t r = 0; r < tile.num_rows; ++r) {
    if (!seen[r].empty()) all = {smaller(all.begin, seen[r].begin), larger(all.end, seen[r].end)};
  }
  for (int64_t begin = all.begin / kStepKeys * kStepKeys; begin < all.end; begin += kStepKeys) {
    const unsigned groups = groups_seen(seen, tile.num_rows, begin);
    if (groups == 0) continue;
    const int64_t next = begin + kStepKeys;
    const unsigned next_groups = groups_seen(seen, tile.num_rows, next);
    const StepCache step = find_step(args, tile.first_row, kv_head, begin, groups, next_groups);
    for (int64_t r = 0; r < tile.num_rows; ++r) {
      const KeyRange keys = seen[r].within(begin, next).minus(begin);
      if (keys.empty()) continue;
      meet_step(args, step, keys, buffers.queries + r * query_size, buffers, states[r]);
    }
  }
}

}  // namespace gr::GR_NAMESPACE
