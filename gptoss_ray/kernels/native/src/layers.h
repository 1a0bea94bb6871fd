// Whole layers of a rank that has all experts: their kernels one after the other, without going back to
// the caller in between.
#pragma once
#include <stdint.h>

#include "api.h"
#include "isa.h"

namespace gr {

// As gr_attention_layer, with attention.num_tokens > 0; attention.qkv and attention.out are scratch of
// this call.
struct AttentionLayerArgs {
  const gr_matrix* qkv;
  const gr_matrix* out;
  const float* norm_weight;
  float eps;
  gr_attention_args attention;
  uint16_t* hidden;
};

// bf16 [num_rows, width] with unknown contents. Throws std::bad_alloc.
uint16_t* scratch_rows(ThreadPool& pool, Scratch slot, int64_t num_rows, int64_t width);

void attention_layer(const KernelTable& kernels, ThreadPool& pool, const AttentionLayerArgs& args);
// The second half of a layer, of t > 0 rows: hidden + the weighted sum of its chosen experts.
void mixture(const KernelTable& kernels, ThreadPool& pool, const gr_layer& layer, int64_t t,
             uint16_t* hidden);

}  // namespace gr
