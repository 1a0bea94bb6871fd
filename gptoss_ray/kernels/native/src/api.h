// The C interface of the native CPU kernels: plain pointers and sizes, called through ctypes.
//
// Every function that returns int gives 0, or a negative number after which `gr_last_error()` says what was
// wrong; nothing throws across this boundary. Matrices are row-major; bf16 is carried as uint16_t.
// Law 1: each output row depends on its input row alone. Its sums are taken in one order that depends on the
// weight's shape, never on the number of rows, of threads, or on what stands beside it.
//
// Shapes: T rows, K inputs, N outputs, E experts, H hidden size, D head dimension.
#pragma once
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define GR_EXPORT __attribute__((visibility("default")))

typedef struct gr_context gr_context;  // an instruction set and a pool of threads

enum gr_isa { GR_PORTABLE = 0, GR_AVX2 = 1, GR_AVX512 = 2 };       // AVX512: F, BW, VL, VNNI and BF16
enum gr_format { GR_MXFP4 = 0, GR_BF16 = 1, GR_INT8 = 2 };
enum gr_type { GR_OUT_BF16 = 0, GR_OUT_F32 = 1 };
// What a matrix multiplies of a row x of bf16. GR_ACT_BF16: x as it is. GR_ACT_INT8, of MXFP4 and INT8 weights: x
// quantized in blocks of 32, scale = max|x| / 127 in float32, code = round to nearest even of x / scale.
enum gr_activations { GR_ACT_BF16 = 0, GR_ACT_INT8 = 1 };

// A packed matrix [N, K]. N is the true number of rows; storage is in tiles of 16 rows, the last one filled up
// with zero rows. K is a multiple of 32. All arrays are 64-byte aligned.
//   GR_MXFP4  codes  uint8 [N/16, K/32, 4, 16 rows, 4 bytes]: a lane's 32 bits hold 8 e2m1 codes of one row; nibble j
//                    (bits 4j..4j+3) of chunk c is k = 8c + 2j for j < 4, else k = 8c + 2(j - 4) + 1
//             scales uint8 [N/16, K/32, 16] e8m0
//   GR_BF16   codes  bf16  [N/16, K/2, 16 rows, 2]; no scales
//   GR_INT8   codes  int8  [N/16, K/32, 16 pairs of k, 16 rows, 2];  scales float16 [N/16, K/32, 16]
typedef struct {
  int64_t format, activations, n, k;
  const void *codes;
  const void *scales;
  const float *bias;  // float32 [N], or null
} gr_matrix;

GR_EXPORT const char *gr_build_id(void);    // hash of the sources, given by the build
GR_EXPORT const char *gr_last_error(void);  // of this thread
GR_EXPORT int gr_best_isa(void);
// `cpus`: int32 [num_threads] to pin the threads to (the caller is thread 0 and is never pinned), or null. Returns null on error.
GR_EXPORT gr_context *gr_create(int num_threads, int isa, const int32_t *cpus);
GR_EXPORT void gr_destroy(gr_context *context);

// --- packing: writes codes and scales laid out as above ---
GR_EXPORT int gr_pack_mxfp4(gr_context *, const uint8_t *blocks /*[N, K/32, 16]*/, const uint8_t *scales /*[N, K/32]*/,
                            int64_t n, int64_t k, void *out_codes, void *out_scales);
GR_EXPORT int gr_pack_bf16(gr_context *, const uint16_t *weight /*[N, K]*/, int64_t n, int64_t k, void *out_codes);
// scale = max|w| / 127 of a block of 32 in a row, rounded to float16; code = round to nearest even of w / scale.
GR_EXPORT int gr_pack_int8(gr_context *, const uint16_t *weight /*bf16 [N, K]*/, int64_t n, int64_t k, void *out_codes,
                           void *out_scales);

// --- dense ---
// out [T, N] = x [T, K] @ W.T + bias, rounded once.
GR_EXPORT int gr_linear(gr_context *, const gr_matrix *, const uint16_t *x, int64_t t, void *out, int out_type);
// out [T, N] = rms_norm(x) @ W.T + bias; the norm is rounded to bf16 first.
GR_EXPORT int gr_norm_linear(gr_context *, const gr_matrix *, const uint16_t *x, const float *norm_weight, float eps,
                             int64_t t, void *out, int out_type);
// out bf16 [T, N] = residual [T, N] + x @ W.T + bias, rounded once. out may be residual.
GR_EXPORT int gr_linear_add(gr_context *, const gr_matrix *, const uint16_t *x, const uint16_t *residual, int64_t t,
                            uint16_t *out);

// --- attention: rotates q and k, writes k and v to the cache, then attends ---
typedef struct {
  int64_t num_tokens, num_heads, num_kv_heads, head_dim, block_size, num_blocks;
  int64_t window;              // a row sees its last `window` positions, itself included; 0: all
  int64_t table_stride;        // columns of block_table
  const uint16_t *qkv;         // bf16 [T, (heads + 2 kv_heads) D]
  const float *cos, *sin;      // float32 [T, D/2]: pairs (i, i + D/2) rotate
  const int64_t *positions;    // [T]
  const int64_t *sequence_index;  // [T] row of block_table
  const int64_t *slot_mapping;    // [T] block id * block_size + offset, where k and v are written
  const int32_t *block_table;     // [S, table_stride] by position / block_size
  uint16_t *keys;              // bf16 [num_blocks, kv_heads, block_size / 16, D / 2 pairs, 16 slots, 2]
  uint16_t *values;            // bf16 [num_blocks, kv_heads, block_size, D]
  const float *sinks;          // float32 [heads]: an extra logit per head that gives no value
  uint16_t *out;               // bf16 [T, heads * D]
} gr_attention_args;
GR_EXPORT int gr_attention(gr_context *, const gr_attention_args *);

// A whole attention layer: hidden bf16 [T, H], written over, = hidden + out(attention(qkv(rms_norm(hidden)))). Of
// `args`, qkv and out are not used.
GR_EXPORT int gr_attention_layer(gr_context *, const gr_matrix *qkv, const gr_matrix *out, const float *norm_weight,
                                 float eps, const gr_attention_args *args, uint16_t *hidden);

// --- mixture of experts ---
// normed bf16 [T, H] = rms_norm(x); gate logits in float32; the k largest (equal ones: lowest id first) in descending
// order: ids int64 [T, k], weights float32 [T, k] = softmax over the k chosen.
GR_EXPORT int gr_gate(gr_context *, const uint16_t *x, const float *norm_weight, float eps, const float *gate_weight /*[E, H]*/,
                      const float *gate_bias /*[E]*/, int64_t t, int64_t h, int64_t e, int64_t k, uint16_t *normed,
                      float *weights, int64_t *ids);
// x bf16 [R, H], the rows of expert 0, then of expert 1, ...; num_rows [E]. gate_up[e] is [2 I, H]: all gates, then all ups.
// All gate_up have the same activations, and so have all down.
// out bf16 [R, H] = down(swiglu(gate_up(x))); gate_up and swiglu are rounded to bf16 as the reference does.
GR_EXPORT int gr_experts(gr_context *, const gr_matrix *gate_up, const gr_matrix *down, int64_t num_experts,
                         const int64_t *num_rows, const uint16_t *x, float alpha, float limit, uint16_t *out);
// out bf16 [T, H] = hidden + sum over k of weights[:, k] * slots[:, k], in slot order, float32, rounded once. out may be hidden.
GR_EXPORT int gr_combine(gr_context *, const uint16_t *hidden, const uint16_t *slots /*[T, k, H]*/, const float *weights,
                         int64_t t, int64_t k, int64_t h, uint16_t *out);

// --- whole layers of which all experts are here ---
typedef struct {
  const gr_matrix *qkv, *out;          // with the norm and the sinks: as gr_attention_layer
  const float *attention_norm, *sinks;
  const float *norm;                   // before the gate
  const float *gate_weight, *gate_bias;  // float32 [E, H], [E]
  const gr_matrix *gate_up, *down;     // [E], expert e at index e
  int64_t *num_rows;                   // [E], written: how many rows chose each expert
  int64_t num_experts, num_chosen;
  int64_t is_sliding;                  // 0: takes the arguments `full`, else `sliding`
  int64_t cache_index;                 // its place in the cache
  float attention_eps, eps, alpha, limit;
} gr_layer;
// hidden bf16 [T, H], written over: for each layer gr_attention_layer, then hidden + the weighted sum of the num_chosen
// experts of rms_norm(hidden): gr_gate, gr_experts and gr_combine. Of `full` and `sliding`, keys and values are bf16
// [num_places, ...], and qkv, out and sinks are not used.
GR_EXPORT int gr_layers(gr_context *, const gr_layer *layers, int64_t num_layers, int64_t num_places,
                        const gr_attention_args *full, const gr_attention_args *sliding, uint16_t *hidden);

// --- ceilings of the machine, for `bench kernels` ---
GR_EXPORT int gr_measure_read(gr_context *, const void *data, size_t num_bytes, uint64_t *checksum);  // reads all of it once
// Each thread: that many independent dots of 16 lanes, of pairs of bf16 or, for GR_ACT_INT8, of four codes.
GR_EXPORT int gr_measure_dots(gr_context *, int64_t num_dots, int activations, float *sink);

#ifdef __cplusplus
}
#endif
