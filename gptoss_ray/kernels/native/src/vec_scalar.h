// bf16 and float16 as scalars: what every instruction set's vector header starts from.
#pragma once
#include <stdint.h>
#include <string.h>

#define GR_INLINE static inline __attribute__((always_inline))

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "packed weights are little-endian");

namespace gr::GR_NAMESPACE {

GR_INLINE uint32_t bits_of(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

GR_INLINE float float_of(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

GR_INLINE float from_bf16(uint16_t x) { return float_of(static_cast<uint32_t>(x) << 16); }

// Nearest bf16, ties to even; NaN stays NaN.
GR_INLINE uint16_t to_bf16(float x) {
  const uint32_t bits = bits_of(x);
  if (x != x) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class T>
GR_INLINE T smaller(T a, T b) {
  return b < a ? b : a;
}

template <class T>
GR_INLINE T larger(T a, T b) {
  return a < b ? b : a;
}

GR_INLINE void prefetch(const void* address) { __builtin_prefetch(address); }
// As far as the second cache only: the first has too few places for lines on their way.
GR_INLINE void prefetch_far(const void* address) { __builtin_prefetch(address, 0, 2); }

}  // namespace gr::GR_NAMESPACE
