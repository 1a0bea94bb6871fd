#include "attention_check.h"

#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>

namespace gr {
namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kMaxHeadDim = 256;
constexpr int64_t kMaxGroupHeads = 16;
constexpr int64_t kLargestSize = int64_t{1} << 31;  // products of two sizes fit in 63 bits

thread_local char text[200];

__attribute__((format(printf, 1, 2))) const char* problem(const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  return text;
}

long long number(int64_t value) { return static_cast<long long>(value); }

const char* pointer_problem(const gr_attention_args& args) {
  const struct {
    const char* name;
    const void* pointer;
  } pointers[] = {
      {"qkv", args.qkv},
      {"cos", args.cos},
      {"sin", args.sin},
      {"positions", args.positions},
      {"sequence_index", args.sequence_index},
      {"slot_mapping", args.slot_mapping},
      {"block_table", args.block_table},
      {"keys", args.keys},
      {"values", args.values},
      {"sinks", args.sinks},
      {"out", args.out},
  };
  for (const auto& each : pointers) {
    if (each.pointer == nullptr) return problem("%s is null", each.name);
  }
  return nullptr;
}

const char* shape_problem(const gr_attention_args& args) {
  const int64_t sizes[] = {args.num_tokens, args.num_blocks, args.table_stride, args.window};
  for (const int64_t size : sizes) {
    if (size < 0 || size > kLargestSize) {
      return problem(
          "num_tokens, num_blocks, table_stride and window must lie in 0 to 2^31, one is %lld",
          number(size));
    }
  }
  if (args.head_dim < kLanes || args.head_dim > kMaxHeadDim || args.head_dim % kLanes != 0) {
    return problem("head_dim is %lld; it must be a multiple of 16 up to 256",
                   number(args.head_dim));
  }
  if (args.num_kv_heads < 1 || args.num_kv_heads > kLargestSize ||
      args.num_heads < args.num_kv_heads || args.num_heads % args.num_kv_heads != 0) {
    return problem("num_heads is %lld; it must be a multiple of num_kv_heads, %lld",
                   number(args.num_heads), number(args.num_kv_heads));
  }
  if (args.num_heads / args.num_kv_heads > kMaxGroupHeads) {
    return problem("num_heads is %lld with %lld num_kv_heads; there can be 16 for each",
                   number(args.num_heads), number(args.num_kv_heads));
  }
  if (args.block_size < kLanes || args.block_size > kLargestSize || args.block_size % kLanes != 0) {
    return problem("block_size is %lld; it must be a multiple of 16", number(args.block_size));
  }
  return nullptr;
}

// The columns of a sequence's row of the block table that are known to be good: rows of a chunk see
// mostly the same.
struct GoodColumns {
  int64_t sequence = -1, first = 0, last = -1;
};

// Looks at the columns `first` to `last` of a sequence, as far as they are not known to be good.
const char* block_problem(const gr_attention_args& args, int64_t sequence, int64_t first,
                          int64_t last, GoodColumns& good) {
  const bool extends = sequence == good.sequence && first >= good.first && first <= good.last + 1;
  if (!extends) good = {sequence, first, first - 1};
  const int32_t* table = args.block_table + sequence * args.table_stride;
  for (int64_t column = good.last + 1; column <= last; ++column) {
    if (table[column] < 0 || table[column] >= args.num_blocks) {
      return problem("block_table[%lld, %lld] is %d, and a row sees it; it must lie in 0 to %lld",
                     number(sequence), number(column), table[column], number(args.num_blocks) - 1);
    }
  }
  if (last > good.last) good.last = last;
  return nullptr;
}

const char* row_problem(const gr_attention_args& args, int64_t row, GoodColumns& good) {
  const int64_t position = args.positions[row], slot = args.slot_mapping[row];
  if (position < 0 || position / args.block_size >= args.table_stride) {
    return problem("positions[%lld] is %lld; block_table has columns for 0 to %lld", number(row),
                   number(position), number(args.table_stride * args.block_size) - 1);
  }
  if (slot < 0 || slot / args.block_size >= args.num_blocks) {
    return problem("slot_mapping[%lld] is %lld; it must lie in 0 to %lld", number(row),
                   number(slot), number(args.num_blocks * args.block_size) - 1);
  }
  if (args.sequence_index[row] < 0 || args.sequence_index[row] > kLargestSize) {
    return problem("sequence_index[%lld] is %lld; it must be a row of block_table", number(row),
                   number(args.sequence_index[row]));
  }
  const int64_t start = args.window > 0 ? position - args.window + 1 : 0;
  return block_problem(args, args.sequence_index[row], (start > 0 ? start : 0) / args.block_size,
                       position / args.block_size, good);
}

}  // namespace

const char* attention_problem(const gr_attention_args& args) {
  if (const char* wrong = shape_problem(args)) return wrong;
  if (args.num_tokens == 0) return nullptr;
  if (const char* wrong = pointer_problem(args)) return wrong;
  GoodColumns good;
  for (int64_t row = 0; row < args.num_tokens; ++row) {
    if (const char* wrong = row_problem(args, row, good)) return wrong;
  }
  return nullptr;
}

}  // namespace gr
