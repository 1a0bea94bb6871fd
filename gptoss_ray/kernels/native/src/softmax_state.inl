// The softmax of one row's query heads over the keys met so far, and how two of them become one.
#pragma once

namespace gr::GR_NAMESPACE {

constexpr int64_t kMaxGroupHeads = 16;  // query heads of a KV head
constexpr int64_t kMaxHeadDim = 256;
constexpr float kNothing = -__builtin_inff();
constexpr float kLog2E = 1.44269504088896341f;  // scores are kept times this: weights are 2^score

// One array of floats: maxima [16], sums of weights [heads, 16 lanes], weighted values [heads, D].
struct SoftmaxState {
  float* data;
  int64_t heads, head_dim;

  static int64_t size(int64_t heads, int64_t head_dim) {
    return kMaxGroupHeads + heads * (kLanes + head_dim);
  }
  float* maxima() const { return data; }
  float* weight_sums(int64_t head) const { return data + kMaxGroupHeads + head * kLanes; }
  float* values(int64_t head) const {
    return data + kMaxGroupHeads + heads * kLanes + head * head_dim;
  }
};

// No keys met.
static inline void clear(const SoftmaxState& state) {
  const int64_t size = SoftmaxState::size(state.heads, state.head_dim);
  for (int64_t i = 0; i < size; i += kLanes) store(state.data + i, zero());
  store(state.maxima(), set(kNothing));
}

// total = total · total_factor + other · other_factor, of `size` floats.
static inline void merge_sums(float* total, const float* other, int64_t size, float total_factor,
                              float other_factor) {
  for (int64_t i = 0; i < size; i += kLanes) {
    const F32 shrunk = mul(load(total + i), set(total_factor));
    store(total + i, fma(load(other + i), set(other_factor), shrunk));
  }
}

// Adds the keys that `other` has met to `total`.
static inline void merge(const SoftmaxState& total, const SoftmaxState& other) {
  float total_factors[kMaxGroupHeads], other_factors[kMaxGroupHeads];
  const F32 maxima = max(load(total.maxima()), load(other.maxima()));
  store(total_factors, exp2(sub(load(total.maxima()), maxima)));
  store(other_factors, exp2(sub(load(other.maxima()), maxima)));
  store(total.maxima(), maxima);
  for (int64_t head = 0; head < total.heads; ++head) {
    merge_sums(total.weight_sums(head), other.weight_sums(head), kLanes, total_factors[head],
               other_factors[head]);
    merge_sums(total.values(head), other.values(head), total.head_dim, total_factors[head],
               other_factors[head]);
  }
}

// out bf16 [heads, D]: the weighted mean of the values, where sinks [heads] are logits without
// value.
static inline void finish(const SoftmaxState& state, const float* sinks, uint16_t* out) {
  float factors[kMaxGroupHeads], sink_weights[kMaxGroupHeads];
  const F32 sink_scores = mul(load_partial(sinks, static_cast<int>(state.heads)), set(kLog2E));
  const F32 maxima = max(load(state.maxima()), sink_scores);
  store(factors, exp2(sub(load(state.maxima()), maxima)));
  store(sink_weights, exp2(sub(sink_scores, maxima)));
  for (int64_t head = 0; head < state.heads; ++head) {
    const float total = sum(load(state.weight_sums(head))) * factors[head] + sink_weights[head];
    const F32 scale = set(factors[head] / total);
    for (int64_t i = 0; i < state.head_dim; i += kLanes) {
      store_bf16(out + head * state.head_dim + i, mul(load(state.values(head) + i), scale));
    }
  }
}

}  // namespace gr::GR_NAMESPACE
