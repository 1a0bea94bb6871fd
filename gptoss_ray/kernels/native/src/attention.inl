// Attention over the paged KV cache: writes keys and values, cuts the rows into tasks, merges
// splits.
//
// Law 1: each split of 1024 keys is reduced on its own and splits are merged in ascending order,
// always, whether one thread does it all or several share the splits of a row. See
// attention_tile.inl.
#pragma once

#include "attention_tile.inl"
#include "elementwise.inl"

namespace gr::GR_NAMESPACE {

// What the states of shared splits may take, for each thread; if it were more, each task takes all
// splits of its rows. Does not change any result.
constexpr size_t kSharedBytesPerThread = size_t{4} << 20;

constexpr int64_t kAllSplits = -1;

struct AttentionTask {
  Tile tile;
  int64_t kv_head;
  int64_t split;  // or kAllSplits
};

// How the rows of a call are attended to.
struct AttentionWork {
  const gr_attention_args& args;
  int64_t heads;               // query heads of a KV head
  int64_t state_size;          // floats of a SoftmaxState
  bool is_shared;              // rows that see several splits share them among tasks
  const int64_t* first_state;  // [T] number of the row's first shared state; null unless is_shared
  float* shared;               // states [row's splits, kv_heads] of row after row

  KeyRange splits(int64_t row) const {
    const KeyRange seen = seen_keys(args, row);
    return {seen.begin / kSplitKeys, (seen.end - 1) / kSplitKeys + 1};
  }
  bool shares(int64_t row) const {
    const KeyRange all = splits(row);
    return is_shared && all.end - all.begin > 1;
  }
  SoftmaxState state(float* data) const { return {data, heads, args.head_dim}; }
  SoftmaxState shared_state(int64_t row, int64_t split, int64_t kv_head) const {
    const int64_t number = first_state[row] + (split - splits(row).begin) * args.num_kv_heads;
    return state(shared + (number + kv_head) * state_size);
  }
  void finish_row(int64_t row, int64_t kv_head, const SoftmaxState& total) const {
    const int64_t head = kv_head * heads;
    finish(total, args.sinks + head, args.out + (row * args.num_heads + head) * args.head_dim);
  }
};

// ------------------------------------------------------------------------------------------ cache

static inline void write_keys_and_values(ThreadPool& pool, const gr_attention_args& args) {
  const int64_t head_dim = args.head_dim, kv_heads = args.num_kv_heads;
  const int64_t row_size = (args.num_heads + 2 * kv_heads) * head_dim;
  const auto write_rows = [=, &args](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t slot = args.slot_mapping[row], angles = row * (head_dim / 2);
      const uint16_t* k = args.qkv + row * row_size + args.num_heads * head_dim;
      const uint16_t* v = k + kv_heads * head_dim;
      for (int64_t head = 0; head < kv_heads; ++head) {
        const int64_t to = (slot / args.block_size * kv_heads + head) * args.block_size;
        const int64_t offset = (to + slot % args.block_size) * head_dim;
        const int64_t lane = slot % kGroupKeys;
        uint16_t rotated[kMaxHeadDim];
        rotate_head(k + head * head_dim, args.cos + angles, args.sin + angles, head_dim, rotated);
        store_key(rotated, head_dim, lane, args.keys + offset - lane * head_dim);
        memcpy(args.values + offset, v + head * head_dim, static_cast<size_t>(head_dim) * 2);
      }
    }
  };
  for_row_pieces(pool, args.num_tokens, 2 * kv_heads * head_dim, write_rows);
}

// ------------------------------------------------------------------------------------------ tasks

// Calls fn(AttentionTask) for all tasks; those of neighbouring rows at the same keys follow each
// other.
template <class Fn>
static inline void for_tasks(const AttentionWork& work, const Fn& fn) {
  const gr_attention_args& args = work.args;
  for (int64_t run = 0, end = 0; run < args.num_tokens; run = end) {
    KeyRange splits{INT64_MAX, 0};
    const int64_t sequence = args.sequence_index[run];
    for (end = run; end < args.num_tokens && args.sequence_index[end] == sequence; ++end) {
      const KeyRange seen = work.splits(end);
      splits = {smaller(splits.begin, seen.begin), larger(splits.end, seen.end)};
    }
    if (!work.is_shared) splits = {kAllSplits, kAllSplits + 1};
    for (int64_t kv_head = 0; kv_head < args.num_kv_heads; ++kv_head) {
      for (int64_t split = splits.begin; split < splits.end; ++split) {
        for (int64_t row = run; row < end; row += kTileRows) {
          fn(AttentionTask{{row, smaller(kTileRows, end - row)}, kv_head, split});
        }
      }
    }
  }
}

// Floats that one thread needs for a tile: buffers, and per row the state of what it met so far and
// that of one split.
static inline int64_t thread_size(const AttentionWork& work) {
  const int64_t query_size = work.heads * work.args.head_dim / 2;
  return 2 * kTileRows * work.state_size + kTileRows * query_size +
         kStepKeys * work.heads;
}

// Does one task with the memory [thread_size] of a thread.
static inline void attend(const AttentionWork& work, const AttentionTask& task, float* memory) {
  const gr_attention_args& args = work.args;
  float* const totals = memory;
  float* const parts = totals + kTileRows * work.state_size;
  float* const queries = parts + kTileRows * work.state_size;
  float* const weights = queries + kTileRows * work.heads * args.head_dim / 2;
  const TileBuffers buffers{reinterpret_cast<uint16_t*>(queries), weights};
  const Tile tile = task.tile;
  KeyRange splits{INT64_MAX, 0};
  for (int64_t r = 0; r < tile.num_rows; ++r) {
    const KeyRange all = work.splits(tile.first_row + r);
    splits = {smaller(splits.begin, all.begin), larger(splits.end, all.end)};
  }
  if (task.split != kAllSplits) splits = splits.within(task.split, task.split + 1);
  if (splits.empty()) return;

  load_queries(args, tile, task.kv_head, buffers);
  for (int64_t split = splits.begin; split < splits.end; ++split) {
    KeyRange seen[kTileRows];
    SoftmaxState states[kTileRows];
    for (int64_t r = 0; r < tile.num_rows; ++r) {
      const int64_t row = tile.first_row + r;
      seen[r] = seen_keys(args, row).within(split * kSplitKeys, (split + 1) * kSplitKeys);
      if (seen[r].empty()) continue;
      float* const own = (split == work.splits(row).begin ? totals : parts) + r * work.state_size;
      states[r] = work.shares(row) ? work.shared_state(row, split, task.kv_head) : work.state(own);
      clear(states[r]);
    }
    meet_split(args, tile, task.kv_head, seen, buffers, states);
    for (int64_t r = 0; r < tile.num_rows; ++r) {
      const int64_t row = tile.first_row + r;
      if (seen[r].empty() || work.shares(row)) continue;
      const SoftmaxState total = work.state(totals + r * work.state_size);
      const KeyRange all = work.splits(row);
      if (split != all.begin) merge(total, states[r]);
      if (split == all.end - 1) work.finish_row(row, task.kv_head, total);
    }
  }
}

// Merges the splits of rows that several tasks have shared.
static inline void merge_shared(ThreadPool& pool, const AttentionWork& work) {
  const int64_t kv_heads = work.args.num_kv_heads;
  pool.run(work.args.num_tokens * kv_heads, [&work, kv_heads](int64_t task) {
    const int64_t row = task / kv_heads, kv_head = task % kv_heads;
    if (!work.shares(row)) return;
    const KeyRange splits = work.splits(row);
    const SoftmaxState total = work.shared_state(row, splits.begin, kv_head);
    for (int64_t split = splits.begin + 1; split < splits.end; ++split) {
      merge(total, work.shared_state(row, split, kv_head));
    }
    work.finish_row(row, kv_head, total);
  });
}

// Decides whether rows share their splits, and where the states of those are.
static inline void place_shared_states(ThreadPool& pool, AttentionWork& work) {
  const int64_t num_tokens = work.args.num_tokens;
  work.is_shared = true;
  int64_t num_states = 0;
  for (int64_t row = 0; row < num_tokens; ++row) {
    if (!work.shares(row)) continue;
    const KeyRange splits = work.splits(row);
    num_states += (splits.end - splits.begin) * work.args.num_kv_heads;
  }
  const size_t num_bytes = static_cast<size_t>(num_states * work.state_size) * sizeof(float);
  const size_t limit = kSharedBytesPerThread * static_cast<size_t>(pool.num_threads());
  work.is_shared = num_states > 0 && num_bytes <= limit;
  if (!work.is_shared) return;
  work.shared = static_cast<float*>(pool.scratch(Scratch::kAttentionSplits, num_bytes));
  const size_t row_bytes = static_cast<size_t>(num_tokens) * sizeof(int64_t);
  int64_t* first_state = static_cast<int64_t*>(pool.scratch(Scratch::kAttentionRows, row_bytes));
  int64_t next = 0;
  for (int64_t row = 0; row < num_tokens; ++row) {
    first_state[row] = next;
    const KeyRange splits = work.splits(row);
    if (work.shares(row)) next += (splits.end - splits.begin) * work.args.num_kv_heads;
  }
  work.first_state = first_state;
}

static void attention(ThreadPool& pool, const gr_attention_args& args) {
  write_keys_and_values(pool, args);
  const int64_t heads = args.num_heads / args.num_kv_heads;
  AttentionWork work{args,  heads,   SoftmaxState::size(heads, args.head_dim),
                     false, nullptr, nullptr};
  place_shared_states(pool, work);

  int64_t num_tasks = 0;
  for_tasks(work, [&num_tasks](const AttentionTask&) { ++num_tasks; });
  const size_t task_bytes = static_cast<size_t>(num_tasks) * sizeof(AttentionTask);
  auto* tasks = static_cast<AttentionTask*>(pool.scratch(Scratch::kAttentionTasks, task_bytes));
  AttentionTask* next = tasks;
  for_tasks(work, [&next](const AttentionTask& task) { *next++ = task; });

  const int64_t size = thread_size(work);
  const size_t bytes = static_cast<size_t>(size * pool.num_threads()) * sizeof(float);
  float* memory = static_cast<float*>(pool.scratch(Scratch::kAttentionThreads, bytes));
  pool.run_chunks(num_tasks, 1, [=, &work](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) attend(work, tasks[i], memory + thread * size);
  });
  if (work.is_shared) merge_shared(pool, work);
}

}  // namespace gr::GR_NAMESPACE
