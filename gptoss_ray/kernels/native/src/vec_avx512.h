// The vector vocabulary of the kernels on AVX-512 with BF16: 16 lanes in one register.
#pragma once
// GCC 12 takes the "undefined" operands of its own intrinsics for uninitialized variables (GCC bug
// 105593).
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wuninitialized"
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#include <immintrin.h>
#pragma GCC diagnostic pop

#include "vec_scalar.h"

namespace gr::GR_NAMESPACE {

struct F32 {  // 16 floats
  __m512 v;
};
struct Pairs {  // 16 lanes of two bf16, the lower address in the lower half
  __m512i v;
};
struct Quad {  // 8 consecutive k of 16 rows: 4 pairs
  Pairs pair[4];
};
struct I32 {  // 16 int32
  __m512i v;
};
struct Fours {  // weights of 16 lanes, four bytes each
  __m512i v;
};
struct Octet {  // 8 consecutive k of 16 rows: k = 0 4 1 5, then 2 6 3 7
  Fours four[2];
};

constexpr int kLanes = 16;
// Rows whose sums fit in registers at once.
constexpr int kMaxTileRows = 16;

// --- float32 ---
GR_INLINE F32 zero() { return {_mm512_setzero_ps()}; }
GR_INLINE F32 set(float x) { return {_mm512_set1_ps(x)}; }
GR_INLINE F32 load(const float* p) { return {_mm512_loadu_ps(p)}; }
GR_INLINE void store(float* p, F32 x) { _mm512_storeu_ps(p, x.v); }

GR_INLINE __mmask16 first_lanes(int count) {
  return static_cast<__mmask16>((uint32_t{1} << count) - 1);
}
// The first `count` (0..16) lanes; the others are zero.
GR_INLINE F32 load_partial(const float* p, int count) {
  return {_mm512_maskz_loadu_ps(first_lanes(count), p)};
}
GR_INLINE void store_partial(float* p, F32 x, int count) {
  _mm512_mask_storeu_ps(p, first_lanes(count), x.v);
}

GR_INLINE F32 add(F32 a, F32 b) { return {_mm512_add_ps(a.v, b.v)}; }
GR_INLINE F32 sub(F32 a, F32 b) { return {_mm512_sub_ps(a.v, b.v)}; }
GR_INLINE F32 mul(F32 a, F32 b) { return {_mm512_mul_ps(a.v, b.v)}; }
GR_INLINE F32 div(F32 a, F32 b) { return {_mm512_div_ps(a.v, b.v)}; }
GR_INLINE F32 fma(F32 a, F32 b, F32 c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }  // a * b + c
GR_INLINE F32 max(F32 a, F32 b) { return {_mm512_max_ps(a.v, b.v)}; }  // b where one is NaN
GR_INLINE F32 min(F32 a, F32 b) { return {_mm512_min_ps(a.v, b.v)}; }  // b where one is NaN
GR_INLINE F32 neg(F32 a) { return {_mm512_xor_ps(a.v, _mm512_set1_ps(-0.0f))}; }
// a < b ? yes : no, lane by lane.
GR_INLINE F32 select_less(F32 a, F32 b, F32 yes, F32 no) {
  return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ), no.v, yes.v)};
}
GR_INLINE F32 round_nearest(F32 a) {
  return {_mm512_roundscale_ps(a.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
}
// a * 2^n for whole n.
GR_INLINE F32 times_power_of_two(F32 a, F32 n) { return {_mm512_scalef_ps(a.v, n.v)}; }

// Lanes (i, i + 8), then (i, i + 4), (i, i + 2), (i, i + 1).
GR_INLINE float sum(F32 a) {
  const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
GR_INLINE float largest(F32 a) {
  const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

// --- bf16 ---
GR_INLINE F32 widen(__m256i x) {
  return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16))};
}
GR_INLINE F32 load_bf16(const uint16_t* p) {
  return widen(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}
GR_INLINE F32 load_bf16_partial(const uint16_t* p, int count) {
  return widen(_mm256_maskz_loadu_epi16(first_lanes(count), p));
}
// Nearest bf16, ties to even; NaN stays NaN; values below 2^-126 become zero.
GR_INLINE __m256i narrow(F32 x) { return (__m256i)_mm512_cvtneps_pbh(x.v); }
GR_INLINE void store_bf16(uint16_t* p, F32 x) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), narrow(x));
}
GR_INLINE void store_bf16_partial(uint16_t* p, F32 x, int count) {
  _mm256_mask_storeu_epi16(p, first_lanes(count), narrow(x));
}

GR_INLINE Pairs load_pairs(const uint16_t* p) { return {_mm512_loadu_si512(p)}; }
// The first `count` (0..32) bf16; the others are zero.
GR_INLINE Pairs load_pairs_partial(const uint16_t* p, int count) {
  const __mmask32 mask = static_cast<__mmask32>((uint64_t{1} << count) - 1);
  return {_mm512_maskz_loadu_epi16(mask, p)};
}
GR_INLINE void store_pairs(uint16_t* p, Pairs x) { _mm512_storeu_si512(p, x.v); }
GR_INLINE Pairs broadcast_pair(const uint16_t* p) {
  int32_t pair;
  memcpy(&pair, p, sizeof pair);
  return {_mm512_set1_epi32(pair)};
}
// acc + a.low * b.low + a.high * b.high in each lane.
GR_INLINE F32 dot(F32 acc, Pairs a, Pairs b) {
  return {_mm512_dpbf16_ps(acc.v, (__m512bh)a.v, (__m512bh)b.v)};
}

// --- 8-bit codes ---
// Weights are unsigned in a dot: each is larger by this than what it stands for.
constexpr int kWeightOffset = 128;

GR_INLINE I32 set_int(int32_t x) { return {_mm512_set1_epi32(x)}; }
GR_INLINE F32 to_float(I32 x) { return {_mm512_cvtepi32_ps(x.v)}; }
// acc + the dot of each lane's four weights with the same four signed codes.
GR_INLINE I32 dot(I32 acc, Fours weights, const uint8_t* codes) {
  int32_t four;
  memcpy(&four, codes, sizeof four);
  return {_mm512_dpbusd_epi32(acc.v, weights.v, _mm512_set1_epi32(four))};
}
// 16 whole numbers in -127..127 as bytes, in the order of Octet.
GR_INLINE void store_codes(int8_t* p, F32 x) {
  const __m128i order = _mm_setr_epi8(0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15);
  const __m128i codes = _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x.v));
  _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm_shuffle_epi8(codes, order));
}

// --- packed weights (api.h) ---
// 64 bytes of e2m1 codes. The table holds the 16 values twice, so that the fifth index bit (the
// next code's lowest) needs no mask.
GR_INLINE Quad e2m1_quad(const uint8_t* codes) {
  const __m512i table = _mm512_broadcast_i64x4(_mm256_setr_epi16(
      0x0000, 0x3f00, 0x3f80, 0x3fc0, 0x4000, 0x4040, 0x4080, 0x40c0, static_cast<int16_t>(0x8000),
      static_cast<int16_t>(0xbf00), static_cast<int16_t>(0xbf80), static_cast<int16_t>(0xbfc0),
      static_cast<int16_t>(0xc000), static_cast<int16_t>(0xc040), static_cast<int16_t>(0xc080),
      static_cast<int16_t>(0xc0c0)));
  const __m512i v = _mm512_loadu_si512(codes);
  return {{{_mm512_permutexvar_epi16(v, table)},
           {_mm512_permutexvar_epi16(_mm512_srli_epi32(v, 4), table)},
           {_mm512_permutexvar_epi16(_mm512_srli_epi32(v, 8), table)},
           {_mm512_permutexvar_epi16(_mm512_srli_epi32(v, 12), table)}}};
}

// 64 bytes of e2m1 codes as twice their values. An index has six bits: the table holds the 16
// values four times, so that none needs a mask.
GR_INLINE Octet e2m1_octet(const uint8_t* codes) {
  const __m512i table = _mm512_broadcast_i32x4(
      _mm_setr_epi8(-128, -127, -126, -125, -124, -122, -120, -116,  // 128 + 0 1 2 3 4 6 8 12
                    -128, 127, 126, 125, 124, 122, 120, 116));       // 128 - the same
  const __m512i v = _mm512_loadu_si512(codes);
  return {{{_mm512_permutexvar_epi8(v, table)},
           {_mm512_permutexvar_epi8(_mm512_srli_epi16(v, 4), table)}}};
}

// 32 bytes: rows 0..7, then rows 8..15, two k each. Whole numbers up to 128 are exact in bf16.
GR_INLINE Pairs int8_pairs(const uint8_t* codes) {
  const __m128i* halves = reinterpret_cast<const __m128i*>(codes);
  const __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(halves)));
  const __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(halves + 1)));
  return {(__m512i)_mm512_cvtne2ps_pbh(high, low)};
}

// 128 bytes: four pairs of k, 16 rows each.
GR_INLINE Octet int8_octet(const uint8_t* codes) {
  const __m512i order = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
  const __m512i offset = _mm512_set1_epi8(static_cast<char>(kWeightOffset));
  // Of four rows each: one half of the first (third) pair, then of the second (fourth).
  const __m512i a = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(codes));
  const __m512i b = _mm512_permutexvar_epi64(order, _mm512_loadu_si512(codes + 64));
  return {{{_mm512_xor_si512(_mm512_unpacklo_epi8(a, b), offset)},
           {_mm512_xor_si512(_mm512_unpackhi_epi8(a, b), offset)}}};
}

// 16 scales 2^(s - 127); 0 is 2^-127, 255 is NaN.
GR_INLINE F32 e8m0_scales(const uint8_t* scales) {
  const __m512i s = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(scales)));
  const __m512i bits = _mm512_max_epu32(_mm512_slli_epi32(s, 23), _mm512_set1_epi32(0x00400000));
  const __mmask16 is_nan = _mm512_cmpeq_epi32_mask(s, _mm512_set1_epi32(255));
  return {_mm512_castsi512_ps(_mm512_mask_mov_epi32(bits, is_nan, _mm512_set1_epi32(0x7fc00000)))};
}

GR_INLINE F32 half_scales(const uint8_t* scales) {  // 16 float16
  return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(scales)))};
}

}  // namespace gr::GR_NAMESPACE

#include "vec_exp.h"
