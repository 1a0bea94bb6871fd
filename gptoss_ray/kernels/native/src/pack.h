// Lays matrices out as the kernels read them (the layouts: `gr_matrix` in api.h).
#pragma once
#include <stdint.h>

#include "thread_pool.h"

namespace gr {

void pack_mxfp4(ThreadPool& pool, const uint8_t* blocks, const uint8_t* scales, int64_t n,
                int64_t k, uint8_t* out_codes, uint8_t* out_scales);
void pack_bf16(ThreadPool& pool, const uint16_t* weight, int64_t n, int64_t k, uint16_t* out_codes);
// Returns false, with unknown contents in out_*, where a weight is not finite.
bool pack_int8(ThreadPool& pool, const uint16_t* weight, int64_t n, int64_t k, int8_t* out_codes,
               uint16_t* out_scales);

}  // namespace gr
