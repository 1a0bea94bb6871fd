// Checks of the arguments of the C interface. Each throws std::invalid_argument with a sentence
// that names the argument, its value, and what it must be.
#pragma once
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <stdexcept>

#include "api.h"

namespace gr::arguments {

constexpr int64_t kBlock = 32;
constexpr int64_t kVector = 16;
constexpr int64_t kLargestSize = int64_t{1} << 31;  // products of two sizes fit in 63 bits
constexpr uintptr_t kAlignment = 64;

// For a format's %lld: what int64_t is differs from platform to platform.
inline long long number(int64_t value) { return static_cast<long long>(value); }

// Throws std::invalid_argument with the text unless `ok`.
__attribute__((format(printf, 2, 3))) inline void require(bool ok, const char* format, ...) {
  if (ok) return;
  char text[200];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(text, sizeof text, format, arguments);
  va_end(arguments);
  throw std::invalid_argument(text);
}

inline void require_pointer(const void* pointer, const char* name) {
  require(pointer != nullptr, "%s is null", name);
}

inline void require_aligned(const void* pointer, const char* name) {
  require_pointer(pointer, name);
  require(reinterpret_cast<uintptr_t>(pointer) % kAlignment == 0,
          "%s is at %p, but must be 64-byte aligned", name, pointer);
}

inline void require_size(int64_t size, int64_t least, const char* name) {
  require(size >= least && size <= kLargestSize, "%s is %lld, but must be in %lld..%lld", name,
          number(size), number(least), number(kLargestSize));
}

inline void require_multiple(int64_t size, int64_t unit, const char* name) {
  require_size(size, 1, name);
  require(size % unit == 0, "%s is %lld, but must be a multiple of %lld", name, number(size),
          number(unit));
}

inline void require_out_type(int out_type) {
  require(out_type == GR_OUT_BF16 || out_type == GR_OUT_F32,
          "out_type is %d, but must be 0 (bf16) or 1 (float32)", out_type);
}

inline void require_activations(int64_t activations, const char* name) {
  require(activations == GR_ACT_BF16 || activations == GR_ACT_INT8,
          "%s is %lld, but must be 0 (bf16) or 1 (int8)", name, number(activations));
}

inline void check_matrix(const gr_matrix* matrix) {
  require_pointer(matrix, "matrix");
  const int64_t format = matrix->format;
  require(format == GR_MXFP4 || format == GR_BF16 || format == GR_INT8,
          "matrix.format is %lld, but must be 0, 1 or 2", number(format));
  require_activations(matrix->activations, "matrix.activations");
  require(format != GR_BF16 || matrix->activations == GR_ACT_BF16,
          "matrix.activations is 1 (int8), but bf16 weights only take 0 (bf16)");
  require_size(matrix->n, 1, "matrix.n");
  require_multiple(matrix->k, kBlock, "matrix.k");
  require_aligned(matrix->codes, "matrix.codes");
  if (format != GR_BF16) require_aligned(matrix->scales, "matrix.scales");
}

inline void check_is(int64_t size, int64_t expected, const char* name) {
  require(size == expected, "%s is %lld, but must be %lld", name, number(size), number(expected));
}

inline void check_same(int64_t size, int64_t expected, const char* name, int64_t expert) {
  require(size == expected, "%s of expert %lld is %lld, but must be %lld", name,
          number(expert), number(size), number(expected));
}

// k: how many of the experts each row chooses.
inline void check_chosen(int64_t k, int64_t num_experts) {
  require_size(k, 1, "k");
  require(k <= num_experts, "k is %lld, but there are only %lld experts", number(k),
          number(num_experts));
}

inline void check_experts(const gr_matrix* gate_up, const gr_matrix* down, int64_t num_experts) {
  for (int64_t e = 0; e < num_experts; ++e) {
    check_matrix(&gate_up[e]);
    check_matrix(&down[e]);
    check_same(gate_up[e].k, gate_up[0].k, "gate_up.k", e);
    check_same(down[e].n, gate_up[0].k, "down.n", e);
    check_same(down[e].k, down[0].k, "down.k", e);
    check_same(gate_up[e].n, 2 * down[0].k, "gate_up.n", e);
    check_same(gate_up[e].activations, gate_up[0].activations, "gate_up.activations", e);
    check_same(down[e].activations, down[0].activations, "down.activations", e);
  }
}

// Returns the sum of num_rows.
inline int64_t check_num_rows(const int64_t* num_rows, int64_t num_experts) {
  int64_t total = 0;
  for (int64_t e = 0; e < num_experts; ++e) {
    require_size(num_rows[e], 0, "num_rows");
    total += num_rows[e];
    require_size(total, 0, "the sum of num_rows");
  }
  return total;
}

}  // namespace gr::arguments
