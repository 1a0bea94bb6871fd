// One tile of a matmul with 8-bit activations; else as in matmul_tile.inl.
//
// Each row is quantized by itself, in blocks of 32 k. A block's dot with a weight is a whole
// number, exact in any order. Then, block by block, ascending:
// acc = (dot * the row's scale) * the weight's scale + acc.
#pragma once
#include "matmul_tile.inl"

namespace gr::GR_NAMESPACE {

// A block of one row: k is code * scale.
struct CodedBlock {
  int8_t codes[kBlock];  // in the order of Octet
  float scale;
  int32_t start;  // of a dot: takes away what kWeightOffset adds
};

// Of CodedBlock, each 4 bytes. In a tile of M rows those of a block lie in the order [word, M].
constexpr int kScaleWord = 8;
constexpr int kStartWord = 9;
constexpr int kCodedWords = 10;
static_assert(sizeof(CodedBlock) == 4 * kCodedWords, "a block is whole words");

template <class T>
GR_INLINE T load_word(const uint8_t* word) {
  T value;
  memcpy(&value, word, sizeof value);
  return value;
}

// acc[m] += a block of a panel times row m.
template <class Format, int M>
GR_INLINE void add_coded_block(const uint8_t* codes, const uint8_t* scales, const uint8_t* x,
                               F32* acc) {
  const auto word_of = [x](int word, int m) { return x + (word * M + m) * 4; };
  I32 sums[M];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) sums[m] = set_int(load_word<int32_t>(word_of(kStartWord, m)));
  // Unrolled whole: a fifth faster with many rows, as GCC then keeps fewer sums in memory.
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    prefetch_after<Format, M>(codes + i * (Format::kCodeBytes / 4));
    const Octet octet = Format::octet(codes, i);
#pragma GCC unroll 2
    for (int j = 0; j < 2; ++j) {
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) sums[m] = dot(sums[m], octet.four[j], word_of(2 * i + j, m));
    }
  }
  const F32 scale = Format::octet_scales(scales);
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) {
    const F32 row_scale = set(load_word<float>(word_of(kScaleWord, m)));
    acc[m] = fma(mul(to_float(sums[m]), row_scale), scale, acc[m]);
  }
}

// sums [M, 16] = the rows' dots with a panel of num_blocks blocks. x: words [block, word, M].
template <class Format, int M>
void coded_tile_sums(const uint8_t* codes, const uint8_t* scales, const uint8_t* x,
                     int64_t num_blocks, float* sums) {
  F32 acc[M];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) acc[m] = zero();
  for (int64_t block = 0; block < num_blocks; ++block) {
    add_coded_block<Format, M>(codes, scales, x, acc);
    codes += Format::kCodeBytes;
    scales += Format::kScaleBytes;
    x += sizeof(CodedBlock) * M;
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) store(sums + m * kPanel, acc[m]);
}

// Rows in 8-bit codes.
struct CodedRows {
  static constexpr int64_t kBlockBytes = sizeof(CodedBlock);  // of one row
  template <class Format, int M>
  static constexpr TileSums kTileSums = &coded_tile_sums<Format, M>;
};

}  // namespace gr::GR_NAMESPACE
