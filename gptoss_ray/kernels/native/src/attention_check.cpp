#include "attention_check.h"

#include <stdint.h>

#include "arguments.h"

namespace gr::arguments {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kMaxGroupHeads = 16;

void check_pointers(const gr_attention_args& args) {
  require_pointer(args.qkv, "qkv");
  require_pointer(args.cos, "cos");
  require_pointer(args.sin, "sin");
  require_pointer(args.positions, "positions");
  require_pointer(args.sequence_index, "sequence_index");
  require_pointer(args.slot_mapping, "slot_mapping");
  require_pointer(args.block_table, "block_table");
  require_pointer(args.keys, "keys");
  require_pointer(args.values, "values");
  require_pointer(args.sinks, "sinks");
  require_pointer(args.out, "out");
}

void check_shape(const gr_attention_args& args) {
  const int64_t sizes[] = {args.num_tokens, args.num_blocks, args.table_stride, args.window};
  for (const int64_t size : sizes) {
    require(size >= 0 && size <= kLargestSize,
            "num_tokens, num_blocks, table_stride and window must lie in 0 to 2^31, one is %lld",
            number(size));
  }
  require(args.head_dim >= kLanes && args.head_dim <= kMaxHeadDim && args.head_dim % kLanes == 0,
          "head_dim is %lld; it must be a multiple of 16 up to 256", number(args.head_dim));
  require(args.num_kv_heads >= 1 && args.num_kv_heads <= kLargestSize &&
              args.num_heads >= args.num_kv_heads && args.num_heads % args.num_kv_heads == 0,
          "num_heads is %lld; it must be a multiple of num_kv_heads, %lld", number(args.num_heads),
          number(args.num_kv_heads));
  require(args.num_heads / args.num_kv_heads <= kMaxGroupHeads,
          "num_heads is %lld with %lld num_kv_heads; there can be 16 for each",
          number(args.num_heads), number(args.num_kv_heads));
  require(args.block_size >= kLanes && args.block_size <= kLargestSize &&
              args.block_size % kLanes == 0,
          "block_size is %lld; it must be a multiple of 16", number(args.block_size));
}

// The columns of a sequence's row of the block table that are known to be good: rows of a chunk see
// mostly the same.
struct GoodColumns {
  int64_t sequence = -1, first = 0, last = -1;
};

// Looks at the columns `first` to `last` of a sequence, as far as they are not known to be good.
void check_blocks(const gr_attention_args& args, int64_t sequence, int64_t first, int64_t last,
                  GoodColumns& good) {
  const bool extends = sequence == good.sequence && first >= good.first && first <= good.last + 1;
  if (!extends) good = {sequence, first, first - 1};
  const int32_t* table = args.block_table + sequence * args.table_stride;
  for (int64_t column = good.last + 1; column <= last; ++column) {
    // Of thousands of columns, only a wrong one is worth a call.
    if (table[column] >= 0 && table[column] < args.num_blocks) continue;
    require(false, "block_table[%lld, %lld] is %d, and a row sees it; it must lie in 0 to %lld",
            number(sequence), number(column), table[column], number(args.num_blocks) - 1);
  }
  if (last > good.last) good.last = last;
}

void check_row(const gr_attention_args& args, int64_t row, GoodColumns& good) {
  const int64_t position = args.positions[row], slot = args.slot_mapping[row];
  const int64_t sequence = args.sequence_index[row];
  require(position >= 0 && position / args.block_size < args.table_stride,
          "positions[%lld] is %lld; block_table has columns for 0 to %lld", number(row),
          number(position), number(args.table_stride * args.block_size) - 1);
  require(slot >= 0 && slot / args.block_size < args.num_blocks,
          "slot_mapping[%lld] is %lld; it must lie in 0 to %lld", number(row), number(slot),
          number(args.num_blocks * args.block_size) - 1);
  require(sequence >= 0 && sequence <= kLargestSize,
          "sequence_index[%lld] is %lld; it must be a row of block_table", number(row),
          number(sequence));
  const int64_t start = args.window > 0 ? position - args.window + 1 : 0;
  check_blocks(args, sequence, (start > 0 ? start : 0) / args.block_size,
               position / args.block_size, good);
}

}  // namespace

void check_attention(const gr_attention_args& args) {
  check_shape(args);
  if (args.num_tokens == 0) return;
  check_pointers(args);
  GoodColumns good;
  for (int64_t row = 0; row < args.num_tokens; ++row) check_row(args, row, good);
}

}  // namespace gr::arguments
