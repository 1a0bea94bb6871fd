// Keys [16, D] of bf16 laid out by pairs of D, so that one register holds the same pair of 16 keys.
#pragma once

namespace gr::GR_NAMESPACE {

// out [pairs, 16 rows, 2] = x [16 rows, pairs, 2], where x has `stride` elements a row:
// kTransposedPairs of them, or `pairs` if that is less. `pairs` is a multiple of 8, and at most
// 128.
#if defined(__AVX512F__)
static inline void transpose_pairs(const uint16_t* x, int64_t stride, int64_t pairs,
                                   uint16_t* out) {
  const __mmask16 valid = pairs >= 16 ? 0xFFFF : 0x00FF;
  __m512i a[16], b[16];
  for (int i = 0; i < 16; ++i) a[i] = _mm512_maskz_loadu_epi32(valid, x + i * stride);
  for (int i = 0; i < 16; i += 2) {
    b[i] = _mm512_unpacklo_epi32(a[i], a[i + 1]);
    b[i + 1] = _mm512_unpackhi_epi32(a[i], a[i + 1]);
  }
  for (int i = 0; i < 16; i += 4) {  // a[i + j]: pair 4 q + j of rows i ... i + 3 in its quarter q
    a[i] = _mm512_unpacklo_epi64(b[i], b[i + 2]);
    a[i + 1] = _mm512_unpackhi_epi64(b[i], b[i + 2]);
    a[i + 2] = _mm512_unpacklo_epi64(b[i + 1], b[i + 3]);
    a[i + 3] = _mm512_unpackhi_epi64(b[i + 1], b[i + 3]);
  }
  for (int j = 0; j < 4; ++j) {
    const __m512i even_low = _mm512_shuffle_i32x4(a[j], a[4 + j], 0x88);
    const __m512i odd_low = _mm512_shuffle_i32x4(a[j], a[4 + j], 0xDD);
    const __m512i even_high = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0x88);
    const __m512i odd_high = _mm512_shuffle_i32x4(a[8 + j], a[12 + j], 0xDD);
    _mm512_storeu_si512(out + j * 32, _mm512_shuffle_i32x4(even_low, even_high, 0x88));
    _mm512_storeu_si512(out + (4 + j) * 32, _mm512_shuffle_i32x4(odd_low, odd_high, 0x88));
    if (pairs < 16) continue;
    _mm512_storeu_si512(out + (8 + j) * 32, _mm512_shuffle_i32x4(even_low, even_high, 0xDD));
    _mm512_storeu_si512(out + (12 + j) * 32, _mm512_shuffle_i32x4(odd_low, odd_high, 0xDD));
  }
}
constexpr int64_t kTransposedPairs = 16;
#elif defined(__AVX2__)
static inline void transpose_pairs(const uint16_t* x, int64_t stride, int64_t, uint16_t* out) {
  for (int half = 0; half < 16; half += 8) {
    __m256i a[8], b[8];
    for (int i = 0; i < 8; ++i) {
      a[i] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(x + (half + i) * stride));
    }
    for (int i = 0; i < 8; i += 2) {
      b[i] = _mm256_unpacklo_epi32(a[i], a[i + 1]);
      b[i + 1] = _mm256_unpackhi_epi32(a[i], a[i + 1]);
    }
    for (int i = 0; i < 8; i += 4) {  // a[i + j]: pair 4 q + j of rows i ... i + 3 in its half q
      a[i] = _mm256_unpacklo_epi64(b[i], b[i + 2]);
      a[i + 1] = _mm256_unpackhi_epi64(b[i], b[i + 2]);
      a[i + 2] = _mm256_unpacklo_epi64(b[i + 1], b[i + 3]);
      a[i + 3] = _mm256_unpackhi_epi64(b[i + 1], b[i + 3]);
    }
    for (int j = 0; j < 4; ++j) {
      const __m256i low = _mm256_permute2x128_si256(a[j], a[4 + j], 0x20);
      const __m256i high = _mm256_permute2x128_si256(a[j], a[4 + j], 0x31);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + j * 32 + 2 * half), low);
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + (4 + j) * 32 + 2 * half), high);
    }
  }
}
constexpr int64_t kTransposedPairs = 8;
#else
static inline void transpose_pairs(const uint16_t* x, int64_t stride, int64_t pairs,
                                   uint16_t* out) {
  for (int64_t pair = 0; pair < pairs; ++pair) {
    for (int64_t row = 0; row < 16; ++row) {
      memcpy(out + (pair * 16 + row) * 2, x + row * stride + pair * 2, 2 * sizeof(uint16_t));
    }
  }
}
constexpr int64_t kTransposedPairs = 128;
#endif

}  // namespace gr::GR_NAMESPACE
