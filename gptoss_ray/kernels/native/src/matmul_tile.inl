// One tile of a matmul: 16 outputs (a panel of the packed weight) of 1 to kMaxTileRows rows.
//
// The sums of every row are taken in one order, whatever stands beside it (law 1): for each block
// of 32 k, ascending, sum = 16 dots of pairs, ascending, from zero; then acc = sum * scale + acc,
// or acc + sum where the format has no scales. How many rows and blocks are in flight at once
// changes only the speed.
#pragma once

namespace gr::GR_NAMESPACE {

constexpr int64_t kBlock = 32;      // k that share a scale
constexpr int64_t kPanel = kLanes;  // outputs side by side in the packed weight
// How far ahead to ask for weights, always in the order in which they lie: out of order, one Zen 4
// core reads the int8 and bf16 ones half as fast.
constexpr int64_t kPrefetchBytes = 4096;

// A weight format: sizes of one block of a panel, how to decode 8 k of it, and its scales; for rows
// of bf16 (quad, scales) and of 8-bit codes (octet, octet_scales).
struct Mxfp4 {
  static constexpr int64_t kCodeBytes = 256;
  static constexpr int64_t kScaleBytes = 16;
  GR_INLINE Quad quad(const uint8_t* block, int i) { return e2m1_quad(block + 64 * i); }
  GR_INLINE F32 scales(const uint8_t* scales) { return e8m0_scales(scales); }
  GR_INLINE Octet octet(const uint8_t* block, int i) { return e2m1_octet(block + 64 * i); }
  GR_INLINE F32 octet_scales(const uint8_t* scales) {  // an octet has twice the values
    return mul(e8m0_scales(scales), set(0.5f));
  }
};

struct Int8 {
  static constexpr int64_t kCodeBytes = 512;
  static constexpr int64_t kScaleBytes = 32;
  GR_INLINE Quad quad(const uint8_t* block, int i) {
    const uint8_t* codes = block + 128 * i;
    return {{int8_pairs(codes), int8_pairs(codes + 32), int8_pairs(codes + 64),
             int8_pairs(codes + 96)}};
  }
  GR_INLINE F32 scales(const uint8_t* scales) { return half_scales(scales); }
  GR_INLINE Octet octet(const uint8_t* block, int i) { return int8_octet(block + 128 * i); }
  GR_INLINE F32 octet_scales(const uint8_t* scales) { return half_scales(scales); }
};

struct Bf16 {
  static constexpr int64_t kCodeBytes = 1024;
  static constexpr int64_t kScaleBytes = 0;
  GR_INLINE Quad quad(const uint8_t* block, int i) {
    const uint16_t* pairs = reinterpret_cast<const uint16_t*>(block + 256 * i);
    return {{load_pairs(pairs), load_pairs(pairs + 32), load_pairs(pairs + 64),
             load_pairs(pairs + 96)}};
  }
};

// Two blocks of few rows hide the latency of `dot` better than one; where a block has more than a
// few lines, reading two in turn costs more than that.
template <class Format>
constexpr int blocks_at_once(int rows) {
  return rows <= 5 && Format::kCodeBytes <= 256 ? 2 : 1;
}

// Asks for what lies kPrefetchBytes after `codes`, as much as the weights of 8 k. With one sum in
// flight the processor itself looks far enough ahead, and asking costs up to a tenth.
template <class Format, int kSums>
GR_INLINE void prefetch_after(const uint8_t* codes) {
  if constexpr (kSums > 1) {
#pragma GCC unroll 4
    for (int64_t line = 0; line < Format::kCodeBytes / 4; line += 64) {
      prefetch(codes + kPrefetchBytes + line);
    }
  }
}

// acc[m] += kBlocks blocks of a panel times row m. x holds the rows' pairs: [k / 2, M, 2].
template <class Format, int M, int kBlocks>
GR_INLINE void add_blocks(const uint8_t* codes, const uint8_t* scales, const uint16_t* x,
                          F32* acc) {
  F32 sums[kBlocks][M];
#pragma GCC unroll 16
  for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 16
    for (int m = 0; m < M; ++m) sums[b][m] = zero();
  }
#pragma GCC unroll 1
  for (int i = 0; i < 4; ++i) {
    Quad quads[kBlocks];
#pragma GCC unroll 4
    for (int b = 0; b < kBlocks; ++b) {
      const int64_t step = i * kBlocks + b;
      prefetch_after<Format, kBlocks * M>(codes + step * (Format::kCodeBytes / 4));
      quads[b] = Format::quad(codes + b * Format::kCodeBytes, i);
    }
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
#pragma GCC unroll 4
      for (int b = 0; b < kBlocks; ++b) {
#pragma GCC unroll 16
        for (int m = 0; m < M; ++m) {
          const uint16_t* const pair = x + (b * (kBlock / 2) + 4 * i + j) * M * 2 + m * 2;
          sums[b][m] = dot(sums[b][m], quads[b].pair[j], broadcast_pair(pair));
        }
      }
    }
  }
#pragma GCC unroll 4
  for (int b = 0; b < kBlocks; ++b) {
    if constexpr (Format::kScaleBytes > 0) {
      const F32 scale = Format::scales(scales + b * Format::kScaleBytes);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) acc[m] = fma(sums[b][m], scale, acc[m]);
    } else {
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) acc[m] = add(acc[m], sums[b][m]);
    }
  }
}

// sums [M, 16] = the rows' dots with a panel of num_blocks blocks. rows: x as above.
template <class Format, int M>
void tile_sums(const uint8_t* codes, const uint8_t* scales, const uint8_t* rows, int64_t num_blocks,
               float* sums) {
  const uint16_t* x = reinterpret_cast<const uint16_t*>(rows);
  constexpr int kAtOnce = blocks_at_once<Format>(M);
  F32 acc[M];
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) acc[m] = zero();
  int64_t block = 0;
  for (; block + kAtOnce <= num_blocks; block += kAtOnce) {
    add_blocks<Format, M, kAtOnce>(codes, scales, x, acc);
    codes += kAtOnce * Format::kCodeBytes;
    scales += kAtOnce * Format::kScaleBytes;
    x += kAtOnce * kBlock * M;
  }
  for (; block < num_blocks; ++block) {
    add_blocks<Format, M, 1>(codes, scales, x, acc);
    codes += Format::kCodeBytes;
    scales += Format::kScaleBytes;
    x += kBlock * M;
  }
#pragma GCC unroll 16
  for (int m = 0; m < M; ++m) store(sums + m * kPanel, acc[m]);
}

using TileSums = void (*)(const uint8_t*, const uint8_t*, const uint8_t*, int64_t, float*);

// Rows as they are: pairs of bf16.
struct PairRows {
  static constexpr int64_t kBlockBytes = kBlock * sizeof(uint16_t);  // of one row
  template <class Format, int M>
  static constexpr TileSums kTileSums = &tile_sums<Format, M>;
};

// The `kTileSums` of such rows for 1 to kMaxTileRows of them.
template <class Format, class Rows, int M = kMaxTileRows>
TileSums tile_sums_for(int64_t num_rows) {
  if constexpr (M > 1) {
    if (num_rows < M) return tile_sums_for<Format, Rows, M - 1>(num_rows);
  }
  return Rows::template kTileSums<Format, M>;
}

}  // namespace gr::GR_NAMESPACE
