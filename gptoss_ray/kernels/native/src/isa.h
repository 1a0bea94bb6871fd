// The kernels of one instruction set. Each isa_<name>.cpp fills one table; api.cpp checks all
// arguments and then calls through it, so that a kernel may trust its arguments.
//
// Everything an isa_<name>.cpp compiles lives in `namespace gr::GR_NAMESPACE`, and it must not use
// templates or inline functions of the standard library: the linker keeps one copy of those for all
// sets, and the copy compiled for AVX-512 would crash elsewhere.
#pragma once
#include <stddef.h>
#include <stdint.h>

#include "api.h"
#include "thread_pool.h"

namespace gr {

// out [t, N] = x [t, K] @ W.T + bias (+ residual [t, N], which may be out). out_type: gr_type. t >
// 0.
struct LinearArgs {
  const gr_matrix* matrix;
  const uint16_t* x;
  int64_t t;
  const uint16_t* residual;  // or null; then out_type is GR_OUT_BF16
  void* out;
  int out_type;
};

// As gr_experts; some num_rows is > 0.
struct ExpertsArgs {
  const gr_matrix* gate_up;
  const gr_matrix* down;
  int64_t num_experts;
  const int64_t* num_rows;
  const uint16_t* x;
  float alpha;
  float limit;
  uint16_t* out;
};

struct KernelTable {
  // matmul.inl
  void (*linear)(ThreadPool&, const LinearArgs&);
  void (*experts)(ThreadPool&, const ExpertsArgs&);
  void (*measure_dots)(ThreadPool&, int64_t num_dots, int activations, float* sink);
  uint64_t (*measure_read)(ThreadPool&, const void* data, size_t num_bytes);
  // attention.inl. Of gr_attention, with num_tokens > 0.
  void (*attention)(ThreadPool&, const gr_attention_args&);
  // elementwise.inl. t > 0 rows; h, a multiple of 16, is the width.
  // out bf16 [t, h] = rms_norm(x [t, h]) * weight, rounded once.
  void (*rms_norm_rows)(ThreadPool&, const uint16_t* x, const float* weight, float eps, int64_t t,
                        int64_t h, uint16_t* out);
  // As gr_gate, 0 < k <= e.
  void (*gate)(ThreadPool&, const uint16_t* x, const float* norm_weight, float eps,
               const float* gate_weight, const float* gate_bias, int64_t t, int64_t h, int64_t e,
               int64_t k, uint16_t* normed, float* weights, int64_t* ids);
  // gate_up bf16 [t, 2 h] = gates, then ups -> out bf16 [t, h].
  void (*swiglu_rows)(ThreadPool&, const uint16_t* gate_up, int64_t t, int64_t h, float alpha,
                      float limit, uint16_t* out);
  // As gr_combine; out may be hidden. places [t, k]: which row of slots is each slot's; null: its own.
  void (*combine)(ThreadPool&, const uint16_t* hidden, const uint16_t* slots, const float* weights,
                  const int64_t* places, int64_t t, int64_t k, int64_t h, uint16_t* out);
};

#if defined(__x86_64__)
extern const KernelTable kAvx512Kernels;
extern const KernelTable kAvx2Kernels;
#endif
extern const KernelTable kPortableKernels;

}  // namespace gr

// What each instruction set defines, in matmul.inl, attention.inl and elementwise.inl.
#ifdef GR_NAMESPACE
namespace gr::GR_NAMESPACE {

static void linear(ThreadPool& pool, const LinearArgs& args);
static void experts(ThreadPool& pool, const ExpertsArgs& args);
static void measure_dots(ThreadPool& pool, int64_t num_dots, int activations, float* sink);
static uint64_t measure_read(ThreadPool& pool, const void* data, size_t num_bytes);
static void attention(ThreadPool& pool, const gr_attention_args& args);
static void rms_norm_rows(ThreadPool& pool, const uint16_t* x, const float* weight, float eps,
                          int64_t t, int64_t h, uint16_t* out);
static void gate(ThreadPool& pool, const uint16_t* x, const float* norm_weight, float eps,
                 const float* gate_weight, const float* gate_bias, int64_t t, int64_t h, int64_t e,
                 int64_t k, uint16_t* normed, float* weights, int64_t* ids);
static void swiglu_rows(ThreadPool& pool, const uint16_t* gate_up, int64_t t, int64_t h,
                        float alpha, float limit, uint16_t* out);
static void combine(ThreadPool& pool, const uint16_t* hidden, const uint16_t* slots,
                    const float* weights, const int64_t* places, int64_t t, int64_t k, int64_t h,
                    uint16_t* out);

constexpr KernelTable kTable = {linear,        experts, measure_dots, measure_read, attention,
                                rms_norm_rows, gate,    swiglu_rows,  combine};

}  // namespace gr::GR_NAMESPACE
#endif
