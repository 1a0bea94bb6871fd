// The vector vocabulary of the kernels on AVX2 with FMA and F16C: 16 lanes in two registers.
#pragma once
#include <immintrin.h>

#include "vec_scalar.h"

namespace gr::GR_NAMESPACE {

struct F32 {  // 16 floats
  __m256 a, b;
};
struct Pairs {  // 16 lanes of two bf16, the lower address in the lower half
  __m256i a, b;
};
struct Quad {  // 8 consecutive k of 16 rows: 4 pairs
  Pairs pair[4];
};
struct I32 {  // 16 int32
  __m256i a, b;
};
struct Fours {  // weights of 16 lanes, four bytes each
  __m256i a, b;
};
struct Octet {  // 8 consecutive k of 16 rows: k = 0 4 1 5, then 2 6 3 7
  Fours four[2];
};

constexpr int kLanes = 16;
// Rows whose sums fit in registers at once.
constexpr int kMaxTileRows = 4;

// --- float32 ---
GR_INLINE F32 zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
GR_INLINE F32 set(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
GR_INLINE F32 load(const float* p) { return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)}; }
GR_INLINE void store(float* p, F32 x) {
  _mm256_storeu_ps(p, x.a);
  _mm256_storeu_ps(p + 8, x.b);
}
// The first `count` (0..16) lanes; the others are zero.
GR_INLINE F32 load_partial(const float* p, int count) {
  float lanes[16] = {};
  memcpy(lanes, p, static_cast<size_t>(count) * sizeof(float));
  return load(lanes);
}
GR_INLINE void store_partial(float* p, F32 x, int count) {
  float lanes[16];
  store(lanes, x);
  memcpy(p, lanes, static_cast<size_t>(count) * sizeof(float));
}

GR_INLINE F32 add(F32 x, F32 y) { return {_mm256_add_ps(x.a, y.a), _mm256_add_ps(x.b, y.b)}; }
GR_INLINE F32 sub(F32 x, F32 y) { return {_mm256_sub_ps(x.a, y.a), _mm256_sub_ps(x.b, y.b)}; }
GR_INLINE F32 mul(F32 x, F32 y) { return {_mm256_mul_ps(x.a, y.a), _mm256_mul_ps(x.b, y.b)}; }
GR_INLINE F32 div(F32 x, F32 y) { return {_mm256_div_ps(x.a, y.a), _mm256_div_ps(x.b, y.b)}; }
GR_INLINE F32 fma(F32 x, F32 y, F32 z) {  // x * y + z
  return {_mm256_fmadd_ps(x.a, y.a, z.a), _mm256_fmadd_ps(x.b, y.b, z.b)};
}
GR_INLINE F32 max(F32 x, F32 y) {  // y where one is NaN
  return {_mm256_max_ps(x.a, y.a), _mm256_max_ps(x.b, y.b)};
}
GR_INLINE F32 min(F32 x, F32 y) {  // y where one is NaN
  return {_mm256_min_ps(x.a, y.a), _mm256_min_ps(x.b, y.b)};
}
GR_INLINE F32 neg(F32 x) {
  const __m256 sign = _mm256_set1_ps(-0.0f);
  return {_mm256_xor_ps(x.a, sign), _mm256_xor_ps(x.b, sign)};
}
// x < y ? yes : no, lane by lane.
GR_INLINE F32 select_less(F32 x, F32 y, F32 yes, F32 no) {
  return {_mm256_blendv_ps(no.a, yes.a, _mm256_cmp_ps(x.a, y.a, _CMP_LT_OQ)),
          _mm256_blendv_ps(no.b, yes.b, _mm256_cmp_ps(x.b, y.b, _CMP_LT_OQ))};
}
GR_INLINE F32 round_nearest(F32 x) {
  return {_mm256_round_ps(x.a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC),
          _mm256_round_ps(x.b, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
GR_INLINE __m256 power_of_two(__m256i n) {  // -126 <= n <= 127
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}
GR_INLINE __m256 times_power_of_two(__m256 x, __m256 n) {
  const __m256i whole = _mm256_cvtps_epi32(n);
  const __m256i half = _mm256_srai_epi32(whole, 1);  // two factors, so that 2^128 is in reach
  const __m256 first = _mm256_mul_ps(x, power_of_two(half));
  return _mm256_mul_ps(first, power_of_two(_mm256_sub_epi32(whole, half)));
}
// x * 2^n for whole n, |n| <= 128.
GR_INLINE F32 times_power_of_two(F32 x, F32 n) {
  return {times_power_of_two(x.a, n.a), times_power_of_two(x.b, n.b)};
}

// Lanes (i, i + 8), then (i, i + 4), (i, i + 2), (i, i + 1).
GR_INLINE float sum(F32 x) {
  const __m256 half = _mm256_add_ps(x.a, x.b);
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
GR_INLINE float largest(F32 x) {
  const __m256 half = _mm256_max_ps(x.a, x.b);
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// --- bf16 ---
GR_INLINE __m256 widen(__m128i x) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(x), 16));
}
GR_INLINE F32 load_bf16(const uint16_t* p) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(p);
  return {widen(_mm_loadu_si128(halves)), widen(_mm_loadu_si128(halves + 1))};
}
GR_INLINE F32 load_bf16_partial(const uint16_t* p, int count) {
  uint16_t lanes[16] = {};
  memcpy(lanes, p, static_cast<size_t>(count) * sizeof(uint16_t));
  return load_bf16(lanes);
}
// Nearest bf16 in the low half of each lane, ties to even; NaN stays NaN.
GR_INLINE __m256i narrow(__m256 x) {
  const __m256i bits = _mm256_castps_si256(x);
  const __m256i high = _mm256_srli_epi32(bits, 16);
  const __m256i odd = _mm256_and_si256(high, _mm256_set1_epi32(1));
  const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
  const __m256i quiet = _mm256_or_si256(high, _mm256_set1_epi32(0x40));
  const __m256 is_nan = _mm256_cmp_ps(x, x, _CMP_UNORD_Q);
  return _mm256_blendv_epi8(rounded, quiet, _mm256_castps_si256(is_nan));
}
GR_INLINE void store_bf16(uint16_t* p, F32 x) {
  const __m256i mixed = _mm256_packus_epi32(narrow(x.a), narrow(x.b));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm256_permute4x64_epi64(mixed, 0xd8));
}
GR_INLINE void store_bf16_partial(uint16_t* p, F32 x, int count) {
  uint16_t lanes[16];
  store_bf16(lanes, x);
  memcpy(p, lanes, static_cast<size_t>(count) * sizeof(uint16_t));
}

GR_INLINE Pairs load_pairs(const uint16_t* p) {
  const __m256i* halves = reinterpret_cast<const __m256i*>(p);
  return {_mm256_loadu_si256(halves), _mm256_loadu_si256(halves + 1)};
}
// The first `count` (0..32) bf16; the others are zero.
GR_INLINE Pairs load_pairs_partial(const uint16_t* p, int count) {
  uint16_t lanes[32] = {};
  memcpy(lanes, p, static_cast<size_t>(count) * sizeof(uint16_t));
  return load_pairs(lanes);
}
GR_INLINE void store_pairs(uint16_t* p, Pairs x) {
  __m256i* halves = reinterpret_cast<__m256i*>(p);
  _mm256_storeu_si256(halves, x.a);
  _mm256_storeu_si256(halves + 1, x.b);
}
GR_INLINE Pairs broadcast_pair(const uint16_t* p) {
  int32_t pair;
  memcpy(&pair, p, sizeof pair);
  return {_mm256_set1_epi32(pair), _mm256_set1_epi32(pair)};
}
GR_INLINE __m256 low_halves(__m256i x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }
GR_INLINE __m256 high_halves(__m256i x) {
  const __m256i mask = _mm256_set1_epi32(static_cast<int32_t>(0xffff0000));
  return _mm256_castsi256_ps(_mm256_and_si256(x, mask));
}
GR_INLINE __m256 dot(__m256 acc, __m256i x, __m256i y) {
  const __m256 first = _mm256_fmadd_ps(low_halves(x), low_halves(y), acc);
  return _mm256_fmadd_ps(high_halves(x), high_halves(y), first);
}
// acc + x.low * y.low, then + x.high * y.high, in each lane.
GR_INLINE F32 dot(F32 acc, Pairs x, Pairs y) {
  return {dot(acc.a, x.a, y.a), dot(acc.b, x.b, y.b)};
}

// --- 8-bit codes ---
constexpr int kWeightOffset = 0;  // weights are signed in a dot

GR_INLINE I32 set_int(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
GR_INLINE F32 to_float(I32 x) { return {_mm256_cvtepi32_ps(x.a), _mm256_cvtepi32_ps(x.b)}; }
// Signs go from the weights to the codes. Two products are at most 2 * 128 * 127: no sum saturates.
GR_INLINE __m256i dot(__m256i acc, __m256i weights, __m256i codes) {
  const __m256i pairs =
      _mm256_maddubs_epi16(_mm256_abs_epi8(weights), _mm256_sign_epi8(codes, weights));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}
// acc + the dot of each lane's four weights with the same four signed codes.
GR_INLINE I32 dot(I32 acc, Fours weights, const uint8_t* codes) {
  int32_t four;
  memcpy(&four, codes, sizeof four);
  const __m256i all = _mm256_set1_epi32(four);
  return {dot(acc.a, weights.a, all), dot(acc.b, weights.b, all)};
}
// 16 whole numbers in -127..127 as bytes, in the order of Octet.
GR_INLINE void store_codes(int8_t* p, F32 x) {
  const __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
  const __m256i mixed = _mm256_packs_epi32(_mm256_cvtps_epi32(x.a), _mm256_cvtps_epi32(x.b));
  const __m256i words = _mm256_permute4x64_epi64(mixed, 0xd8);
  const __m128i codes =
      _mm_packs_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi8(codes, order));
}

// --- packed weights (api.h) ---
// The codes of one pair, in bytes 0 and 2 of each lane, as bf16: one look-up for each byte of the
// values. The other bytes look up code 0, which is 0.
GR_INLINE __m256i e2m1_values(__m256i codes) {
  const __m256i low = _mm256_broadcastsi128_si256(_mm_setr_epi8(
      0x00, 0x00, static_cast<char>(0x80), static_cast<char>(0xc0), 0x00, 0x40,
      static_cast<char>(0x80), static_cast<char>(0xc0), 0x00, 0x00, static_cast<char>(0x80),
      static_cast<char>(0xc0), 0x00, 0x40, static_cast<char>(0x80), static_cast<char>(0xc0)));
  const __m256i high = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0x00, 0x3f, 0x3f, 0x3f, 0x40, 0x40, 0x40, 0x40, static_cast<char>(0x80),
                    static_cast<char>(0xbf), static_cast<char>(0xbf), static_cast<char>(0xbf),
                    static_cast<char>(0xc0), static_cast<char>(0xc0), static_cast<char>(0xc0),
                    static_cast<char>(0xc0)));
  const __m256i index = _mm256_and_si256(codes, _mm256_set1_epi32(0x000f000f));
  return _mm256_or_si256(_mm256_shuffle_epi8(low, index),
                         _mm256_slli_epi16(_mm256_shuffle_epi8(high, index), 8));
}

GR_INLINE Quad e2m1_quad(const uint8_t* codes) {  // 64 bytes
  const __m256i* halves = reinterpret_cast<const __m256i*>(codes);
  const __m256i a = _mm256_loadu_si256(halves);
  const __m256i b = _mm256_loadu_si256(halves + 1);
  return {{{e2m1_values(a), e2m1_values(b)},
           {e2m1_values(_mm256_srli_epi32(a, 4)), e2m1_values(_mm256_srli_epi32(b, 4))},
           {e2m1_values(_mm256_srli_epi32(a, 8)), e2m1_values(_mm256_srli_epi32(b, 8))},
           {e2m1_values(_mm256_srli_epi32(a, 12)), e2m1_values(_mm256_srli_epi32(b, 12))}}};
}

GR_INLINE __m256i e2m1_codes(__m256i codes) {  // in the low half of each byte; twice their values
  const __m256i table = _mm256_broadcastsi128_si256(
      _mm_setr_epi8(0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12));
  return _mm256_shuffle_epi8(table, _mm256_and_si256(codes, _mm256_set1_epi8(0x0f)));
}

GR_INLINE Octet e2m1_octet(const uint8_t* codes) {  // 64 bytes, as twice their values
  const __m256i* halves = reinterpret_cast<const __m256i*>(codes);
  const __m256i a = _mm256_loadu_si256(halves);
  const __m256i b = _mm256_loadu_si256(halves + 1);
  return {{{e2m1_codes(a), e2m1_codes(b)},
           {e2m1_codes(_mm256_srli_epi16(a, 4)), e2m1_codes(_mm256_srli_epi16(b, 4))}}};
}

GR_INLINE __m256i int8_values(const uint8_t* codes) {  // 16 bytes: 8 rows, two k each
  const __m256i words =
      _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(codes)));
  const __m256 low = _mm256_cvtepi32_ps(_mm256_srai_epi32(_mm256_slli_epi32(words, 16), 16));
  const __m256 high = _mm256_cvtepi32_ps(_mm256_srai_epi32(words, 16));
  return _mm256_or_si256(_mm256_srli_epi32(_mm256_castps_si256(low), 16),
                         _mm256_castps_si256(high));
}

// 32 bytes: rows 0..7, then rows 8..15, two k each. Whole numbers up to 128 are exact in bf16.
GR_INLINE Pairs int8_pairs(const uint8_t* codes) {
  return {int8_values(codes), int8_values(codes + 16)};
}

// Two pairs of k, 16 rows each, as four bytes a row.
GR_INLINE Fours interleave(const uint8_t* pair, const uint8_t* other) {
  const __m256i first = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(pair));
  const __m256i second = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(other));
  // Rows 0..3, 8..11 and 4..7, 12..15: each half of a register is unpacked by itself.
  const __m256i a = _mm256_permute4x64_epi64(first, 0xd8);
  const __m256i b = _mm256_permute4x64_epi64(second, 0xd8);
  return {_mm256_unpacklo_epi8(a, b), _mm256_unpackhi_epi8(a, b)};
}

GR_INLINE Octet int8_octet(const uint8_t* codes) {  // 128 bytes: four pairs of k
  return {{interleave(codes, codes + 64), interleave(codes + 32, codes + 96)}};
}

GR_INLINE __m256 e8m0_values(const uint8_t* scales) {
  const __m256i s = _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(scales)));
  const __m256i bits = _mm256_max_epu32(_mm256_slli_epi32(s, 23), _mm256_set1_epi32(0x00400000));
  const __m256i is_nan = _mm256_cmpeq_epi32(s, _mm256_set1_epi32(255));
  const __m256i quiet = _mm256_and_si256(is_nan, _mm256_set1_epi32(0x7fc00000));
  return _mm256_castsi256_ps(_mm256_or_si256(bits, quiet));
}

// 16 scales 2^(s - 127); 0 is 2^-127, 255 is NaN.
GR_INLINE F32 e8m0_scales(const uint8_t* scales) {
  return {e8m0_values(scales), e8m0_values(scales + 8)};
}

GR_INLINE F32 half_scales(const uint8_t* scales) {  // 16 float16
  const __m128i* halves = reinterpret_cast<const __m128i*>(scales);
  return {_mm256_cvtph_ps(_mm_loadu_si128(halves)), _mm256_cvtph_ps(_mm_loadu_si128(halves + 1))};
}

}  // namespace gr::GR_NAMESPACE

#include "vec_exp.h"
