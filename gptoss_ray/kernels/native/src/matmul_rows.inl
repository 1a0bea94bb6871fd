// The rows of a matmul in the order in which its tiles read them: pairs of bf16, or 8-bit codes.
#pragma once
#include "matmul_tile_int8.inl"

namespace gr::GR_NAMESPACE {

constexpr int64_t kPackedPiece = 512;  // k of a tile's rows that one task packs
static_assert(kPackedPiece % kBlock == 0, "pieces are whole blocks");

// Rows [first, first + count) of the input; in the packed input they start after `first` rows.
struct RowTile {
  int64_t first;
  int64_t count;
};

GR_INLINE int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }
GR_INLINE int64_t num_tiles(int64_t num_rows) { return ceil_div(num_rows, kMaxTileRows); }

// Cuts rows [first, first + count) into tiles as equal as can be; returns the end of what it wrote.
static RowTile* cut_rows(int64_t first, int64_t count, RowTile* tiles) {
  for (int64_t left = num_tiles(count); left > 0; --left) {
    const int64_t rows = ceil_div(count, left);
    *tiles++ = {first, rows};
    first += rows;
    count -= rows;
  }
  return tiles;
}

// k [begin, end) of x [num_rows, k] -> words of `out` [k / 2 pairs, num_rows].
static void pack_pairs(const uint16_t* x, int64_t num_rows, int64_t k, int64_t begin, int64_t end,
                       uint8_t* out) {
  constexpr int64_t kPairBytes = 2 * sizeof *x;
  out += begin / 2 * num_rows * kPairBytes;
  for (int64_t i = begin; i < end; i += 2) {
    for (int64_t row = 0; row < num_rows; ++row) {
      memcpy(out, x + row * k + i, kPairBytes);
      out += kPairBytes;
    }
  }
}

// Codes 32 values as api.h says. Where one is not finite the scale is not either.
static CodedBlock quantize(const uint16_t* x) {
  uint16_t most = 0;  // of |x|: without signs, bits are in the order of values, NaN the largest
  for (int64_t i = 0; i < kBlock; ++i) {
    most = larger(most, static_cast<uint16_t>(x[i] & 0x7fff));
  }
  CodedBlock block;
  block.scale = from_bf16(most) / 127.0f;
  const F32 divisor = set(most == 0 ? 1.0f : block.scale);
  const F32 highest = set(127.0f), lowest = set(-127.0f);
  F32 total = zero();
  for (int64_t i = 0; i < kBlock; i += kLanes) {
    // The limits stand second in min and max, so that NaN becomes one.
    const F32 ratio = div(load_bf16(x + i), divisor);
    const F32 code = round_nearest(max(min(ratio, highest), lowest));
    total = add(total, code);
    store_codes(block.codes + i, code);
  }
  block.start = -kWeightOffset * static_cast<int32_t>(sum(total));
  return block;
}

// As pack_pairs, but codes -> words of `out` [k / 32 blocks, kCodedWords, num_rows].
static void pack_codes(const uint16_t* x, int64_t num_rows, int64_t k, int64_t begin, int64_t end,
                       uint8_t* out) {
  out += begin / kBlock * num_rows * CodedRows::kBlockBytes;
  for (int64_t i = begin; i < end; i += kBlock) {
    for (int64_t row = 0; row < num_rows; ++row) {
      const CodedBlock block = quantize(x + row * k + i);
      const uint8_t* const words = reinterpret_cast<const uint8_t*>(&block);
      for (int word = 0; word < kCodedWords; ++word) {
        memcpy(out + (word * num_rows + row) * 4, words + word * 4, 4);
      }
    }
    out += num_rows * CodedRows::kBlockBytes;
  }
}

// Returns the rows x [., k] in packed order; x itself where that is their order.
static const uint8_t* pack_rows(ThreadPool& pool, const uint16_t* x, const gr_matrix& matrix,
                                const RowTile* tiles, int64_t num_tiles) {
  const RowTile& last = tiles[num_tiles - 1];
  const int64_t num_rows = last.first + last.count, k = matrix.k;
  const bool is_coded = matrix.activations == GR_ACT_INT8;
  if (!is_coded && num_rows == num_tiles) return reinterpret_cast<const uint8_t*>(x);
  const int64_t row_bytes =
      k / kBlock * (is_coded ? CodedRows::kBlockBytes : PairRows::kBlockBytes);
  const size_t bytes = static_cast<size_t>(num_rows * row_bytes);
  uint8_t* const packed = static_cast<uint8_t*>(pool.scratch(Scratch::kPackedRows, bytes));
  const int64_t num_pieces = ceil_div(k, kPackedPiece);
  const auto pack_piece = [=](int64_t task) {
    const RowTile& tile = tiles[task / num_pieces];
    const int64_t begin = task % num_pieces * kPackedPiece;
    const int64_t end = smaller(begin + kPackedPiece, k);
    uint8_t* const out = packed + tile.first * row_bytes;
    (is_coded ? pack_codes : pack_pairs)(x + tile.first * k, tile.count, k, begin, end, out);
  };
  const int64_t num_tasks = num_tiles * num_pieces;
  if (num_rows * k <= kElementsPerTask) {
    for (int64_t task = 0; task < num_tasks; ++task) pack_piece(task);
  } else {
    pool.run(num_tasks, pack_piece);
  }
  return packed;
}

}  // namespace gr::GR_NAMESPACE
