// The C interface: checks every argument, so that a kernel may trust its own, and turns every
// failure into a text.
#include "api.h"

#include <stdio.h>

#include <atomic>
#include <exception>
#include <new>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "arguments.h"
#include "attention_check.h"
#include "isa.h"
#include "layers.h"
#include "pack.h"
#include "thread_pool.h"

#ifndef GR_BUILD_ID
#define GR_BUILD_ID "unknown"
#endif

struct gr_context {
  gr_context(const gr::KernelTable& table, int num_threads, const int32_t* cpus)
      : kernels(table), pool(num_threads, cpus) {}

  const gr::KernelTable& kernels;
  gr::ThreadPool pool;
  std::atomic<bool> busy{false};
};

namespace {

using namespace gr::arguments;

constexpr int kMaxThreads = 4096;

thread_local char last_error[256] = "";

int fail(const char* function, const char* problem) {
  snprintf(last_error, sizeof last_error, "%s: %s", function, problem);
  return -1;
}

// Runs body() with the context to itself; returns 0, or -1 with the text of what it threw.
template <class Body>
int guarded(const char* function, gr_context* context, const Body& body) {
  if (context == nullptr) return fail(function, "context is null");
  if (context->busy.exchange(true, std::memory_order_acquire)) {
    return fail(function,
                "another thread is using this context; give each thread a context of its own");
  }
  int result = 0;
  try {
    body();
  } catch (const std::bad_alloc&) {
    result = fail(function, "out of memory");
  } catch (const std::exception& problem) {
    result = fail(function, problem.what());
  }
  context->busy.store(false, std::memory_order_release);
  return result;
}

bool supports(int isa) {
  if (isa == GR_PORTABLE) return true;
#if defined(__x86_64__)
  unsigned eax = 0, ebx = 0, ecx = 0, edx = 0;
  __get_cpuid(1, &eax, &ebx, &ecx, &edx);
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                    __builtin_cpu_supports("bmi2") && (ecx & bit_F16C) != 0;
  if (isa == GR_AVX2) return avx2;
  return avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512vbmi") &&
         __builtin_cpu_supports("avx512bf16");
#else
  return false;
#endif
}

const gr::KernelTable& table_of(int isa) {
#if defined(__x86_64__)
  if (isa == GR_AVX512) return gr::kAvx512Kernels;
  if (isa == GR_AVX2) return gr::kAvx2Kernels;
#endif
  (void)isa;
  return gr::kPortableKernels;
}

// As gr_attention_layer, of at least one token.
gr::AttentionLayerArgs attention_layer_args(gr_context* context, const gr_matrix* qkv,
                                            const gr_matrix* out, const float* norm_weight,
                                            float eps, const gr_attention_args& args,
                                            uint16_t* hidden) {
  check_matrix(qkv);
  check_matrix(out);
  require_pointer(norm_weight, "norm_weight");
  require_pointer(hidden, "hidden");
  gr::AttentionLayerArgs layer = {qkv, out, norm_weight, eps, args, hidden};
  gr_attention_args& attention = layer.attention;
  const int64_t t = attention.num_tokens;
  attention.qkv = gr::scratch_rows(context->pool, gr::Scratch::kQkv, t, qkv->n);
  attention.out = gr::scratch_rows(context->pool, gr::Scratch::kAttended, t, out->k);
  check_attention(attention);
  const int64_t num_heads = attention.num_heads + 2 * attention.num_kv_heads;
  check_is(qkv->n, num_heads * attention.head_dim, "qkv.n");
  check_is(out->k, attention.num_heads * attention.head_dim, "out.k");
  check_is(out->n, qkv->k, "out.n");
  return layer;
}

// All that a layer's mixture reads of it.
void check_mixture(const gr_layer& layer) {
  require_size(layer.num_experts, 1, "num_experts");
  check_chosen(layer.num_chosen, layer.num_experts);
  require_pointer(layer.norm, "norm");
  require_pointer(layer.gate_weight, "gate_weight");
  require_pointer(layer.gate_bias, "gate_bias");
  require_pointer(layer.gate_up, "gate_up");
  require_pointer(layer.down, "down");
  require_pointer(layer.num_rows, "num_rows");
  check_experts(layer.gate_up, layer.down, layer.num_experts);
  check_is(layer.gate_up->k, layer.qkv->k, "gate_up.k");
}

// The arguments of a layer's attention: the step's, with the layer's own place in the cache.
gr_attention_args attention_args(const gr_layer& layer, int64_t num_places,
                                 const gr_attention_args& step) {
  require(layer.cache_index >= 0 && layer.cache_index < num_places,
          "cache_index is %lld, but must lie in 0 to %lld", number(layer.cache_index),
          number(num_places - 1));
  gr_attention_args args = step;
  const int64_t place_size = step.num_blocks * step.num_kv_heads * step.block_size * step.head_dim;
  args.keys += layer.cache_index * place_size;
  args.values += layer.cache_index * place_size;
  args.sinks = layer.sinks;
  return args;
}

}  // namespace

const char* gr_build_id(void) { return GR_BUILD_ID; }

const char* gr_last_error(void) { return last_error; }

int gr_best_isa(void) {
  return supports(GR_AVX512) ? GR_AVX512 : supports(GR_AVX2) ? GR_AVX2 : GR_PORTABLE;
}

gr_context* gr_create(int num_threads, int isa, const int32_t* cpus) {
  try {
    require(num_threads >= 1 && num_threads <= kMaxThreads,
            "num_threads is %d, but must be in 1..%d", num_threads, kMaxThreads);
    require(isa >= GR_PORTABLE && isa <= GR_AVX512,
            "isa is %d, but must be 0 (portable), 1 (AVX2) or 2 (AVX-512)", isa);
    require(supports(isa), "isa is %d, but this machine supports at most %d", isa, gr_best_isa());
    return new gr_context(table_of(isa), num_threads, cpus);
  } catch (const std::exception& problem) {
    fail(__func__, problem.what());
    return nullptr;
  }
}

void gr_destroy(gr_context* context) { delete context; }

int gr_pack_mxfp4(gr_context* context, const uint8_t* blocks, const uint8_t* scales, int64_t n,
                  int64_t k, void* out_codes, void* out_scales) {
  return guarded(__func__, context, [&] {
    require_size(n, 1, "n");
    require_multiple(k, kBlock, "k");
    require_pointer(blocks, "blocks");
    require_pointer(scales, "scales");
    require_aligned(out_codes, "out_codes");
    require_aligned(out_scales, "out_scales");
    gr::pack_mxfp4(context->pool, blocks, scales, n, k, static_cast<uint8_t*>(out_codes),
                   static_cast<uint8_t*>(out_scales));
  });
}

int gr_pack_bf16(gr_context* context, const uint16_t* weight, int64_t n, int64_t k,
                 void* out_codes) {
  return guarded(__func__, context, [&] {
    require_size(n, 1, "n");
    require_multiple(k, kBlock, "k");
    require_pointer(weight, "weight");
    require_aligned(out_codes, "out_codes");
    gr::pack_bf16(context->pool, weight, n, k, static_cast<uint16_t*>(out_codes));
  });
}

int gr_pack_int8(gr_context* context, const uint16_t* weight, int64_t n, int64_t k, void* out_codes,
                 void* out_scales) {
  return guarded(__func__, context, [&] {
    require_size(n, 1, "n");
    require_multiple(k, kBlock, "k");
    require_pointer(weight, "weight");
    require_aligned(out_codes, "out_codes");
    require_aligned(out_scales, "out_scales");
    const bool finite = gr::pack_int8(context->pool, weight, n, k, static_cast<int8_t*>(out_codes),
                                      static_cast<uint16_t*>(out_scales));
    require(finite, "weight holds a value that is not finite, which int8 cannot hold");
  });
}

int gr_linear(gr_context* context, const gr_matrix* matrix, const uint16_t* x, int64_t t, void* out,
              int out_type) {
  return guarded(__func__, context, [&] {
    check_matrix(matrix);
    require_size(t, 0, "t");
    require_out_type(out_type);
    if (t == 0) return;
    require_pointer(x, "x");
    require_pointer(out, "out");
    context->kernels.linear(context->pool, {matrix, x, t, nullptr, out, out_type});
  });
}

int gr_norm_linear(gr_context* context, const gr_matrix* matrix, const uint16_t* x,
                   const float* norm_weight, float eps, int64_t t, void* out, int out_type) {
  return guarded(__func__, context, [&] {
    check_matrix(matrix);
    require_size(t, 0, "t");
    require_out_type(out_type);
    require_pointer(norm_weight, "norm_weight");
    if (t == 0) return;
    require_pointer(x, "x");
    require_pointer(out, "out");
    const size_t bytes = static_cast<size_t>(t) * static_cast<size_t>(matrix->k) * sizeof(uint16_t);
    uint16_t* const normed =
        static_cast<uint16_t*>(context->pool.scratch(gr::Scratch::kNormed, bytes));
    context->kernels.rms_norm_rows(context->pool, x, norm_weight, eps, t, matrix->k, normed);
    context->kernels.linear(context->pool, {matrix, normed, t, nullptr, out, out_type});
  });
}

int gr_linear_add(gr_context* context, const gr_matrix* matrix, const uint16_t* x,
                  const uint16_t* residual, int64_t t, uint16_t* out) {
  return guarded(__func__, context, [&] {
    check_matrix(matrix);
    require_size(t, 0, "t");
    if (t == 0) return;
    require_pointer(x, "x");
    require_pointer(residual, "residual");
    require_pointer(out, "out");
    context->kernels.linear(context->pool, {matrix, x, t, residual, out, GR_OUT_BF16});
  });
}

int gr_attention(gr_context* context, const gr_attention_args* args) {
  return guarded(__func__, context, [&] {
    require_pointer(args, "args");
    check_attention(*args);
    if (args->num_tokens > 0) context->kernels.attention(context->pool, *args);
  });
}

int gr_attention_layer(gr_context* context, const gr_matrix* qkv, const gr_matrix* out,
                       const float* norm_weight, float eps, const gr_attention_args* args,
                       uint16_t* hidden) {
  return guarded(__func__, context, [&] {
    require_pointer(args, "args");
    require_size(args->num_tokens, 0, "num_tokens");
    if (args->num_tokens == 0) return;
    gr::attention_layer(
        context->kernels, context->pool,
        attention_layer_args(context, qkv, out, norm_weight, eps, *args, hidden));
  });
}

int gr_gate(gr_context* context, const uint16_t* x, const float* norm_weight, float eps,
            const float* gate_weight, const float* gate_bias, int64_t t, int64_t h, int64_t e,
            int64_t k, uint16_t* normed, float* weights, int64_t* ids) {
  return guarded(__func__, context, [&] {
    require_size(t, 0, "t");
    require_multiple(h, kVector, "h");
    require_size(e, 1, "e");
    check_chosen(k, e);
    require_pointer(norm_weight, "norm_weight");
    require_pointer(gate_weight, "gate_weight");
    require_pointer(gate_bias, "gate_bias");
    if (t == 0) return;
    require_pointer(x, "x");
    require_pointer(normed, "normed");
    require_pointer(weights, "weights");
    require_pointer(ids, "ids");
    context->kernels.gate(context->pool, x, norm_weight, eps, gate_weight, gate_bias, t, h, e, k,
                          normed, weights, ids);
  });
}

int gr_experts(gr_context* context, const gr_matrix* gate_up, const gr_matrix* down,
               int64_t num_experts, const int64_t* num_rows, const uint16_t* x, float alpha,
               float limit, uint16_t* out) {
  return guarded(__func__, context, [&] {
    require_size(num_experts, 0, "num_experts");
    if (num_experts == 0) return;
    require_pointer(gate_up, "gate_up");
    require_pointer(down, "down");
    require_pointer(num_rows, "num_rows");
    check_experts(gate_up, down, num_experts);
    if (check_num_rows(num_rows, num_experts) == 0) return;
    require_pointer(x, "x");
    require_pointer(out, "out");
    context->kernels.experts(context->pool,
                             {gate_up, down, num_experts, num_rows, x, alpha, limit, out});
  });
}

int gr_combine(gr_context* context, const uint16_t* hidden, const uint16_t* slots,
               const float* weights, int64_t t, int64_t k, int64_t h, uint16_t* out) {
  return guarded(__func__, context, [&] {
    require_size(t, 0, "t");
    require_size(k, 1, "k");
    require_multiple(h, kVector, "h");
    if (t == 0) return;
    require_pointer(hidden, "hidden");
    require_pointer(slots, "slots");
    require_pointer(weights, "weights");
    require_pointer(out, "out");
    context->kernels.combine(context->pool, hidden, slots, weights, nullptr, t, k, h, out);
  });
}

int gr_layers(gr_context* context, const gr_layer* layers, int64_t num_layers, int64_t num_places,
              const gr_attention_args* full, const gr_attention_args* sliding, uint16_t* hidden) {
  return guarded(__func__, context, [&] {
    require_size(num_layers, 1, "num_layers");
    require_pointer(layers, "layers");
    require_pointer(full, "full");
    require_pointer(sliding, "sliding");
    require_size(full->num_tokens, 0, "num_tokens");
    check_is(sliding->num_tokens, full->num_tokens, "sliding.num_tokens");
    if (full->num_tokens == 0) return;
    for (const gr_layer* layer = layers; layer != layers + num_layers; ++layer) {
      const gr_attention_args args =
          attention_args(*layer, num_places, layer->is_sliding ? *sliding : *full);
      gr::attention_layer(context->kernels, context->pool,
                          attention_layer_args(context, layer->qkv, layer->out,
                                               layer->attention_norm, layer->attention_eps, args,
                                               hidden));
      check_mixture(*layer);
      gr::mixture(context->kernels, context->pool, *layer, full->num_tokens, hidden);
    }
  });
}

int gr_measure_read(gr_context* context, const void* data, size_t num_bytes, uint64_t* checksum) {
  return guarded(__func__, context, [&] {
    require_pointer(data, "data");
    require_pointer(checksum, "checksum");
    *checksum = context->kernels.measure_read(context->pool, data, num_bytes);
  });
}

int gr_measure_dots(gr_context* context, int64_t num_dots, int activations, float* sink) {
  return guarded(__func__, context, [&] {
    require(num_dots >= 0, "num_dots is %lld, but must not be negative", number(num_dots));
    require_activations(activations, "activations");
    require_pointer(sink, "sink");
    context->kernels.measure_dots(context->pool, num_dots, activations, sink);
  });
}
