#include "layers.h"

#include <string.h>

namespace gr {

namespace {

constexpr int64_t kRowsPerTask = 16;

// The t * k slots (row · k + choice) of a step, sorted by expert.
struct Routing {
  int64_t* ids;     // [t, k] the expert of each slot
  int64_t* places;  // [t, k] where each slot's row stands among the sorted ones
  float* weights;   // [t, k]
};

Routing allocate_routing(ThreadPool& pool, int64_t num_slots) {
  const size_t count = static_cast<size_t>(num_slots);
  const size_t bytes = count * (2 * sizeof(int64_t) + sizeof(float));
  int64_t* const ids = static_cast<int64_t*>(pool.scratch(Scratch::kRouting, bytes));
  int64_t* const places = ids + num_slots;
  return {ids, places, reinterpret_cast<float*>(places + num_slots)};
}

// Counts the rows of each expert and sorts slots by expert; those of one expert keep their order.
void sort_slots(const Routing& routing, int64_t num_slots, int64_t num_experts, int64_t* num_rows) {
  memset(num_rows, 0, static_cast<size_t>(num_experts) * sizeof *num_rows);
  for (int64_t slot = 0; slot < num_slots; ++slot) ++num_rows[routing.ids[slot]];
  int64_t end = 0;
  for (int64_t expert = 0; expert < num_experts; ++expert) {
    const int64_t start = end;
    end += num_rows[expert];
    num_rows[expert] = start;  // until the slots have their places
  }
  for (int64_t slot = 0; slot < num_slots; ++slot) {
    routing.places[slot] = num_rows[routing.ids[slot]]++;
  }
  // Each holds the end of its expert now, which is the start of the next.
  for (int64_t expert = num_experts - 1; expert > 0; --expert) {
    num_rows[expert] -= num_rows[expert - 1];
  }
}

void group_rows(ThreadPool& pool, const Routing& routing, const uint16_t* rows, int64_t num_slots,
                int64_t k, int64_t h, uint16_t* grouped) {
  const size_t bytes = static_cast<size_t>(h) * sizeof *rows;
  pool.run_chunks(num_slots, kRowsPerTask, [=](int64_t begin, int64_t end, int) {
    for (int64_t slot = begin; slot < end; ++slot) {
      memcpy(grouped + routing.places[slot] * h, rows + slot / k * h, bytes);
    }
  });
}

}  // namespace

uint16_t* scratch_rows(ThreadPool& pool, Scratch slot, int64_t num_rows, int64_t width) {
  const size_t bytes = static_cast<size_t>(num_rows * width) * sizeof(uint16_t);
  return static_cast<uint16_t*>(pool.scratch(slot, bytes));
}

void attention_layer(const KernelTable& kernels, ThreadPool& pool, const AttentionLayerArgs& args) {
  const int64_t t = args.attention.num_tokens, h = args.qkv->k;
  uint16_t* const normed = scratch_rows(pool, Scratch::kNormed, t, h);
  uint16_t* const qkv = const_cast<uint16_t*>(args.attention.qkv);
  kernels.rms_norm_rows(pool, args.hidden, args.norm_weight, args.eps, t, h, normed);
  kernels.linear(pool, {args.qkv, normed, t, nullptr, qkv, GR_OUT_BF16});
  kernels.attention(pool, args.attention);
  kernels.linear(pool,
                 {args.out, args.attention.out, t, args.hidden, args.hidden, GR_OUT_BF16});
}

void mixture(const KernelTable& kernels, ThreadPool& pool, const gr_layer& layer, int64_t t,
             uint16_t* hidden) {
  const int64_t k = layer.num_chosen, h = layer.gate_up[0].k, num_slots = t * k;
  const Routing routing = allocate_routing(pool, num_slots);
  uint16_t* const normed = scratch_rows(pool, Scratch::kNormed, t, h);
  uint16_t* const grouped = scratch_rows(pool, Scratch::kGroupedRows, num_slots, h);
  uint16_t* const results = scratch_rows(pool, Scratch::kExpertRows, num_slots, h);
  kernels.gate(pool, hidden, layer.norm, layer.eps, layer.gate_weight, layer.gate_bias, t, h,
               layer.num_experts, k, normed, routing.weights, routing.ids);
  sort_slots(routing, num_slots, layer.num_experts, layer.num_rows);
  group_rows(pool, routing, normed, num_slots, k, h, grouped);
  kernels.experts(pool, {layer.gate_up, layer.down, layer.num_experts, layer.num_rows, grouped,
                         layer.alpha, layer.limit, results});
  kernels.combine(pool, hidden, results, routing.weights, routing.places, t, k, h, hidden);
}

}  // namespace gr
