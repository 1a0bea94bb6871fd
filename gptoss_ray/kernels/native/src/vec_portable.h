// The vector vocabulary of the kernels on any little-endian machine: 16 lanes in four vectors of
// the compiler's.
#pragma once

#include "vec_scalar.h"

namespace gr::GR_NAMESPACE {

typedef float V4 __attribute__((vector_size(16)));
typedef uint32_t U4 __attribute__((vector_size(16)));
typedef int32_t I4 __attribute__((vector_size(16)));
typedef uint16_t U8 __attribute__((vector_size(16)));

struct F32 {  // 16 floats
  V4 v[4];
};
struct Pairs {  // 16 lanes of two bf16, the lower address in the lower half
  U4 v[4];
};
struct Quad {  // 8 consecutive k of 16 rows: 4 pairs
  Pairs pair[4];
};
struct I32 {  // 16 whole numbers below 2^24, which floats hold exactly
  V4 v[4];
};
struct Fours {  // weights of 16 lanes, four each: [k, lane]
  V4 v[4][4];
};
struct Octet {  // 8 consecutive k of 16 rows
  Fours four[2];
};

constexpr int kLanes = 16;
// Rows whose sums fit in registers at once.
constexpr int kMaxTileRows = 2;

template <class To, class From>
GR_INLINE To as(From x) {  // the same bits
  static_assert(sizeof(To) == sizeof(From), "only the type changes");
  To y;
  memcpy(&y, &x, sizeof y);
  return y;
}

#define GR_EACH(expression)     \
  F32 result;                   \
  for (int i = 0; i < 4; ++i) { \
    result.v[i] = (expression); \
  }                             \
  return result

// --- float32 ---
GR_INLINE F32 set(float x) { GR_EACH((V4{x, x, x, x})); }
GR_INLINE F32 zero() { return set(0.0f); }
GR_INLINE F32 load(const float* p) {
  F32 x;
  memcpy(&x, p, sizeof x);
  return x;
}
GR_INLINE void store(float* p, F32 x) { memcpy(p, &x, sizeof x); }
// The first `count` (0..16) lanes; the others are zero.
GR_INLINE F32 load_partial(const float* p, int count) {
  F32 x = zero();
  memcpy(&x, p, static_cast<size_t>(count) * sizeof(float));
  return x;
}
GR_INLINE void store_partial(float* p, F32 x, int count) {
  memcpy(p, &x, static_cast<size_t>(count) * sizeof(float));
}

GR_INLINE F32 add(F32 a, F32 b) { GR_EACH(a.v[i] + b.v[i]); }
GR_INLINE F32 sub(F32 a, F32 b) { GR_EACH(a.v[i] - b.v[i]); }
GR_INLINE F32 mul(F32 a, F32 b) { GR_EACH(a.v[i] * b.v[i]); }
GR_INLINE F32 div(F32 a, F32 b) { GR_EACH(a.v[i] / b.v[i]); }
// a * b + c in two roundings: one rounding is slow where the machine has no instruction for it.
GR_INLINE F32 fma(F32 a, F32 b, F32 c) { GR_EACH(a.v[i] * b.v[i] + c.v[i]); }
GR_INLINE V4 select(I4 mask, V4 yes, V4 no) {
  return as<V4>((as<I4>(yes) & mask) | (as<I4>(no) & ~mask));
}
GR_INLINE F32 max(F32 a, F32 b) {  // b where one is NaN
  GR_EACH(select(a.v[i] > b.v[i], a.v[i], b.v[i]));
}
GR_INLINE F32 min(F32 a, F32 b) {  // b where one is NaN
  GR_EACH(select(a.v[i] < b.v[i], a.v[i], b.v[i]));
}
GR_INLINE F32 neg(F32 a) { GR_EACH(-a.v[i]); }
// a < b ? yes : no, lane by lane.
GR_INLINE F32 select_less(F32 a, F32 b, F32 yes, F32 no) {
  GR_EACH(select(a.v[i] < b.v[i], yes.v[i], no.v[i]));
}
// To a whole number, ties to even, for |a| < 2^22: at 1.5 * 2^23 the last bit of a float is
// worth 1.
GR_INLINE F32 round_nearest(F32 a) {
  const F32 magic = set(12582912.0f);
  return sub(add(a, magic), magic);
}
GR_INLINE V4 power_of_two(U4 n) { return as<V4>((n + 127) << 23); }  // -126 <= n <= 127
// a * 2^n for whole n, |n| <= 128; any n where a is NaN.
GR_INLINE F32 times_power_of_two(F32 a, F32 n) {
  F32 result;
  for (int i = 0; i < 4; ++i) {
    const V4 magic = {12582912.0f, 12582912.0f, 12582912.0f, 12582912.0f};
    const I4 whole = as<I4>(as<U4>(n.v[i] + magic) - as<U4>(magic));
    const I4 half = whole >> 1;  // two factors, so that 2^128 is in reach
    const V4 first = a.v[i] * power_of_two(as<U4>(half));
    result.v[i] = first * power_of_two(as<U4>(whole) - as<U4>(half));
  }
  return result;
}

// Lanes (i, i + 8), then (i, i + 4), (i, i + 2), (i, i + 1).
GR_INLINE float sum(F32 a) {
  const V4 four = (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]);
  return (four[0] + four[2]) + (four[1] + four[3]);
}
GR_INLINE float largest(F32 a) {
  float lanes[16];
  store(lanes, a);
  for (int width = 8; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) lanes[i] = larger(lanes[i], lanes[i + width]);
  }
  return lanes[0];
}

// --- bf16 ---
GR_INLINE F32 load_bf16(const uint16_t* p) {
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = from_bf16(p[i]);
  return load(lanes);
}
GR_INLINE F32 load_bf16_partial(const uint16_t* p, int count) {
  uint16_t lanes[16] = {};
  memcpy(lanes, p, static_cast<size_t>(count) * sizeof(uint16_t));
  return load_bf16(lanes);
}
// Nearest bf16, ties to even; NaN stays NaN.
GR_INLINE void store_bf16_partial(uint16_t* p, F32 x, int count) {
  float lanes[16];
  store(lanes, x);
  for (int i = 0; i < count; ++i) p[i] = to_bf16(lanes[i]);
}
GR_INLINE void store_bf16(uint16_t* p, F32 x) { store_bf16_partial(p, x, 16); }

GR_INLINE Pairs load_pairs(const uint16_t* p) {
  Pairs x;
  memcpy(&x, p, sizeof x);
  return x;
}
// The first `count` (0..32) bf16; the others are zero.
GR_INLINE Pairs load_pairs_partial(const uint16_t* p, int count) {
  Pairs x = {};
  memcpy(&x, p, static_cast<size_t>(count) * sizeof(uint16_t));
  return x;
}
GR_INLINE void store_pairs(uint16_t* p, Pairs x) { memcpy(p, &x, sizeof x); }
GR_INLINE Pairs broadcast_pair(const uint16_t* p) {
  uint32_t pair;
  memcpy(&pair, p, sizeof pair);
  const U4 all = {pair, pair, pair, pair};
  return {{all, all, all, all}};
}
GR_INLINE V4 low_halves(U4 x) { return as<V4>(x << 16); }
GR_INLINE V4 high_halves(U4 x) { return as<V4>(x & 0xffff0000u); }
// acc + a.low * b.low, then + a.high * b.high, in each lane.
GR_INLINE F32 dot(F32 acc, Pairs a, Pairs b) {
  GR_EACH((acc.v[i] + low_halves(a.v[i]) * low_halves(b.v[i])) +
          high_halves(a.v[i]) * high_halves(b.v[i]));
}

#undef GR_EACH

// --- 8-bit codes ---
constexpr int kWeightOffset = 0;  // weights are signed in a dot

GR_INLINE I32 set_int(int32_t x) {
  const F32 all = set(static_cast<float>(x));
  return {{all.v[0], all.v[1], all.v[2], all.v[3]}};
}
GR_INLINE F32 to_float(I32 x) { return {{x.v[0], x.v[1], x.v[2], x.v[3]}}; }
// acc + the dot of each lane's four weights with the same four signed codes.
GR_INLINE I32 dot(I32 acc, const Fours& weights, const uint8_t* codes) {
  int8_t four[4];
  memcpy(four, codes, sizeof four);
  for (int k = 0; k < 4; ++k) {
    const float code = four[k];
    for (int i = 0; i < 4; ++i) acc.v[i] += weights.v[k][i] * code;
  }
  return acc;
}
// 16 whole numbers in -127..127 as bytes, in the order of Octet.
GR_INLINE void store_codes(int8_t* p, F32 x) {
  float lanes[16];
  store(lanes, x);
  for (int i = 0; i < 16; ++i) p[i] = static_cast<int8_t>(lanes[i]);
}

// --- packed weights (api.h) ---
// Codes in the low 4 bits of each half of a lane, as bf16. From 1.0 (code 2) on, a code's 3 low
// bits are exponent and mantissa in place; 0 and 0.5 are put right.
GR_INLINE U4 e2m1_values(U4 codes) {
  const U8 magnitude = as<U8>(codes & 0x00070007u);
  const U8 sign = as<U8>((codes & 0x00080008u) << 12);
  const U8 value = (magnitude << 6) + 0x3f00;
  const U8 is_zero = as<U8>(magnitude == 0);
  const U8 is_half = as<U8>(magnitude == 1);
  return as<U4>(((value & ~is_zero) - (is_half & 0x40)) | sign);
}

GR_INLINE Quad e2m1_quad(const uint8_t* codes) {  // 64 bytes
  Quad result;
  for (int i = 0; i < 4; ++i) {
    U4 v;
    memcpy(&v, codes + 16 * i, sizeof v);
    for (int j = 0; j < 4; ++j) result.pair[j].v[i] = e2m1_values(v >> (4 * j));
  }
  return result;
}

// 32 bytes: 16 rows, two k each. Whole numbers up to 128 are exact in bf16.
GR_INLINE Pairs int8_pairs(const uint8_t* codes) {
  uint16_t lanes[32];
  for (int i = 0; i < 32; ++i) {
    const float value = static_cast<int8_t>(codes[i]);
    lanes[i] = static_cast<uint16_t>(bits_of(value) >> 16);
  }
  return load_pairs(lanes);
}

// Two pairs of k as floats, times `factor`.
GR_INLINE Fours fours(Pairs first, Pairs second, float factor) {
  Fours result;
  for (int i = 0; i < 4; ++i) {
    result.v[0][i] = factor * low_halves(first.v[i]);
    result.v[1][i] = factor * high_halves(first.v[i]);
    result.v[2][i] = factor * low_halves(second.v[i]);
    result.v[3][i] = factor * high_halves(second.v[i]);
  }
  return result;
}

GR_INLINE Octet e2m1_octet(const uint8_t* codes) {  // 64 bytes, as twice their values
  const Quad quad = e2m1_quad(codes);
  return {{fours(quad.pair[0], quad.pair[1], 2.0f), fours(quad.pair[2], quad.pair[3], 2.0f)}};
}

GR_INLINE Octet int8_octet(const uint8_t* codes) {  // 128 bytes: four pairs of k, 16 rows each
  return {{fours(int8_pairs(codes), int8_pairs(codes + 32), 1.0f),
           fours(int8_pairs(codes + 64), int8_pairs(codes + 96), 1.0f)}};
}

// 16 scales 2^(s - 127); 0 is 2^-127, 255 is NaN.
GR_INLINE F32 e8m0_scales(const uint8_t* scales) {
  uint32_t lanes[16];
  for (int i = 0; i < 16; ++i) {
    const uint32_t s = scales[i];
    lanes[i] = s == 0 ? 0x00400000u : s == 255 ? 0x7fc00000u : s << 23;
  }
  F32 x;
  memcpy(&x, lanes, sizeof x);
  return x;
}

// A finite float16 >= 0, the only kind that packed scales hold.
GR_INLINE float from_half(uint32_t x) {
  // A subnormal x is x * 2^-24; the others only need another exponent bias.
  const float small = static_cast<float>(x) * 5.9604644775390625e-8f;
  return x < 0x400 ? small : float_of((x << 13) + ((127u - 15u) << 23));
}

GR_INLINE F32 half_scales(const uint8_t* scales) {  // 16 float16
  uint16_t halves[16];
  memcpy(halves, scales, sizeof halves);
  float lanes[16];
  for (int i = 0; i < 16; ++i) lanes[i] = from_half(halves[i]);
  return load(lanes);
}

}  // namespace gr::GR_NAMESPACE

#include "vec_exp.h"
