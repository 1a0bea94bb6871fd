// What rows of attention read: their queries, rotated, and the keys and values of a step.
//
// Shapes: G query heads of a KV head, D head dimension.
#pragma once

#include "softmax_state.inl"

namespace gr::GR_NAMESPACE {

constexpr int64_t kGroupKeys = 16;    // keys whose scores fill one F32
constexpr int64_t kStepKeys = 64;     // keys between two looks at the maximum
constexpr int64_t kSplitKeys = 1024;  // keys reduced on their own
constexpr int64_t kStepGroups = kStepKeys / kGroupKeys;
constexpr int64_t kTileRows = 4;  // rows that share a step's keys and values in the nearest cache

// Rows of the batch that follow each other and belong to one sequence.
struct Tile {
  int64_t first_row, num_rows;
};

// What a thread needs while it works on a tile.
struct TileBuffers {
  uint16_t* queries;  // [kTileRows, D / 2 pairs, G, 2]
  float* weights;     // [G, kStepKeys]
};

// Keys from `begin` to before `end`.
struct KeyRange {
  int64_t begin, end;

  bool empty() const { return begin >= end; }
  KeyRange within(int64_t from, int64_t to) const {
    return {larger(begin, from), smaller(end, to)};
  }
  KeyRange minus(int64_t offset) const { return {begin - offset, end - offset}; }
};

// The positions that a row of the batch sees.
static inline KeyRange seen_keys(const gr_attention_args& args, int64_t row) {
  const int64_t position = args.positions[row];
  const int64_t first = args.window > 0 ? position - args.window + 1 : 0;
  return {larger<int64_t>(0, first), position + 1};
}

// out [D] = x [D] with pairs (i, i + D/2) rotated, rounded to bf16.
static inline void rotate_head(const uint16_t* x, const float* cos, const float* sin,
                               int64_t head_dim, uint16_t* out) {
  const int64_t half = head_dim / 2;
  for (int64_t i = 0; i < half; i += kLanes) {
    const int count = static_cast<int>(smaller<int64_t>(kLanes, half - i));
    const F32 first = load_bf16_partial(x + i, count);
    const F32 second = load_bf16_partial(x + half + i, count);
    const F32 cosine = load_partial(cos + i, count), sine = load_partial(sin + i, count);
    // Products and sums are rounded apart, as in torch: the keys' bits are the reference's.
    store_bf16_partial(out + i, sub(mul(first, cosine), mul(second, sine)), count);
    store_bf16_partial(out + half + i, add(mul(second, cosine), mul(first, sine)), count);
  }
}

// Writes a key [D] to its group of 16, which lie side by side: a register holds the same pair of
// all.
static inline void store_key(const uint16_t* key, int64_t head_dim, int64_t lane, uint16_t* group) {
  for (int64_t pair = 0; pair < head_dim / 2; ++pair) {
    memcpy(group + (pair * kGroupKeys + lane) * 2, key + pair * 2, 2 * sizeof *key);
  }
}

// Rotates the queries of a tile's rows for one KV head into buffers.queries.
static inline void load_queries(const gr_attention_args& args, Tile tile, int64_t kv_head,
                                const TileBuffers& buffers) {
  const int64_t heads = args.num_heads / args.num_kv_heads, head_dim = args.head_dim;
  const int64_t row_size = (args.num_heads + 2 * args.num_kv_heads) * head_dim;
  uint16_t rotated[kMaxHeadDim];
  for (int64_t r = 0; r < tile.num_rows; ++r) {
    const int64_t row = tile.first_row + r, angles = row * (head_dim / 2);
    const uint16_t* x = args.qkv + row * row_size + kv_head * heads * head_dim;
    uint16_t* queries = buffers.queries + r * heads * head_dim;
    for (int64_t head = 0; head < heads; ++head) {
      rotate_head(x + head * head_dim, args.cos + angles, args.sin + angles, head_dim, rotated);
      for (int64_t pair = 0; pair < head_dim / 2; ++pair) {
        memcpy(queries + (pair * heads + head) * 2, rotated + pair * 2, 2 * sizeof(uint16_t));
      }
    }
  }
}

// Where a group's keys or values lie, 16 · D of each: those from `position` on of the row's sequence.
static inline int64_t group_offset(const gr_attention_args& args, int64_t row, int64_t kv_head,
                                   int64_t position) {
  const int32_t* table = args.block_table + args.sequence_index[row] * args.table_stride;
  const int64_t block = table[position / args.block_size];
  const int64_t slot = (block * args.num_kv_heads + kv_head) * args.block_size;
  return (slot + position % args.block_size) * args.head_dim;
}

// Which groups of the step at `begin` some row sees: bit g of the result. Others may have been
// freed.
static inline unsigned groups_seen(const KeyRange* seen, int64_t num_rows, int64_t begin) {
  unsigned groups = 0;
  for (int64_t r = 0; r < num_rows; ++r) {
    const KeyRange keys = seen[r].within(begin, begin + kStepKeys).minus(begin);
    if (keys.empty()) continue;
    groups |= (2u << ((keys.end - 1) / kGroupKeys)) - (1u << (keys.begin / kGroupKeys));
  }
  return groups;
}

// The keys [D / 2 pairs, 16 keys, 2] and values [16, D] of a step, by group, and what is
// fetched while the values are read: the keys of the next step, or the values once more.
struct StepCache {
  const uint16_t* keys[kStepGroups];
  const uint16_t* values[kStepGroups];
  const uint16_t* next_keys[kStepGroups];
};

// Finds the `groups` of the step at `begin`, and the keys of the `next_groups` of the step after it.
static inline StepCache find_step(const gr_attention_args& args, int64_t row, int64_t kv_head,
                                  int64_t begin, unsigned groups, unsigned next_groups) {
  StepCache step{};
  for (int64_t group = 0; group < kStepGroups; ++group) {
    const int64_t position = begin + group * kGroupKeys;
    if (groups >> group & 1) {
      const int64_t offset = group_offset(args, row, kv_head, position);
      step.keys[group] = args.keys + offset;
      step.values[group] = step.next_keys[group] = args.values + offset;
    }
    if (next_groups >> group & 1) {
      const int64_t offset = group_offset(args, row, kv_head, position + kStepKeys);
      step.next_keys[group] = args.keys + offset;
    }
  }
  return step;
}

}  // namespace gr::GR_NAMESPACE
