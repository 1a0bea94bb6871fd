// What surrounds the matrices of a layer: norm, gate, swiglu, and the sum over a row's experts.
//
// Law 1: a row's sums are taken in an order that its length alone decides. Threads share rows (or
// experts), never a sum. Widths are multiples of 16.
#pragma once

namespace gr::GR_NAMESPACE {

// Less than this many elements are not worth waking another thread.
constexpr int64_t kElementsPerTask = 16384;

// Calls fn(begin, end) for pieces of the rows, on several threads where that pays.
template <class Fn>
static inline void for_row_pieces(ThreadPool& pool, int64_t num_rows, int64_t elements_per_row,
                                  const Fn& fn) {
  const int64_t rows_per_task = larger<int64_t>(1, kElementsPerTask / elements_per_row);
  if (num_rows <= rows_per_task) {
    fn(int64_t{0}, num_rows);
    return;
  }
  pool.run_chunks(num_rows, rows_per_task,
                  [&fn](int64_t begin, int64_t end, int) { fn(begin, end); });
}

// ------------------------------------------------------------------------------------------- norm

// 1 / sqrt(mean(x²) + eps) of x [h].
static inline float inverse_rms(const uint16_t* x, float eps, int64_t h) {
  constexpr int kChains = 4;  // sums that do not wait for each other
  F32 squares[kChains] = {zero(), zero(), zero(), zero()};
  int64_t i = 0;
  for (; i + kChains * kLanes <= h; i += kChains * kLanes) {
    for (int chain = 0; chain < kChains; ++chain) {
      const F32 value = load_bf16(x + i + chain * kLanes);
      squares[chain] = fma(value, value, squares[chain]);
    }
  }
  for (; i < h; i += kLanes) {
    const F32 value = load_bf16(x + i);
    squares[0] = fma(value, value, squares[0]);
  }
  const float total = sum(add(add(squares[0], squares[1]), add(squares[2], squares[3])));
  return 1.0f / __builtin_sqrtf(total / static_cast<float>(h) + eps);
}

static void rms_norm_rows(ThreadPool& pool, const uint16_t* x, const float* weight, float eps,
                          int64_t t, int64_t h, uint16_t* out) {
  for_row_pieces(pool, t, h, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const F32 scale = set(inverse_rms(x + row * h, eps, h));
      for (int64_t i = 0; i < h; i += kLanes) {
        const F32 normed = mul(load_bf16(x + row * h + i), scale);
        store_bf16(out + row * h + i, mul(load(weight + i), normed));
      }
    }
  });
}

// ------------------------------------------------------------------------------------------- gate

// Rows and experts of one tile of logits: with AVX-512 all its sums fit the registers.
#if defined(__AVX512F__)
constexpr int kGateRows = 4;
#else
constexpr int kGateRows = 1;
#endif
constexpr int kGateExperts = 4;
constexpr int64_t kGateRowsPerTask = 16;
constexpr int64_t kGateExpertsPerTask = 8;

// What logits [t, e] are made of.
struct GateInputs {
  const uint16_t* x;    // bf16 [t, h], after the norm
  const float* weight;  // [e, h]
  const float* bias;
  int64_t t, h, e;
};

// Logits of the rows from `row` on and the experts from `expert` on. Each is one chain of fused
// multiply-adds over h in 16 lanes, whatever the size of the tile.
template <int ROWS, int EXPERTS>
static inline void gate_tile(const GateInputs& args, int64_t row, int64_t expert, float* logits) {
  const uint16_t* x = args.x + row * args.h;
  const float* weight = args.weight + expert * args.h;
  F32 sums[ROWS][EXPERTS];
  for (int r = 0; r < ROWS; ++r) {
    for (int e = 0; e < EXPERTS; ++e) sums[r][e] = zero();
  }
  for (int64_t i = 0; i < args.h; i += kLanes) {
    F32 values[ROWS];
    for (int r = 0; r < ROWS; ++r) values[r] = load_bf16(x + r * args.h + i);
    for (int e = 0; e < EXPERTS; ++e) {
      const F32 column = load(weight + e * args.h + i);
      for (int r = 0; r < ROWS; ++r) sums[r][e] = fma(values[r], column, sums[r][e]);
    }
  }
  for (int r = 0; r < ROWS; ++r) {
    for (int e = 0; e < EXPERTS; ++e) {
      logits[(row + r) * args.e + expert + e] = sum(sums[r][e]) + args.bias[expert + e];
    }
  }
}

template <int ROWS>
static inline void gate_rows(const GateInputs& args, int64_t row, int64_t first_expert,
                             int64_t last_expert, float* logits) {
  int64_t expert = first_expert;
  for (; expert + kGateExperts <= last_expert; expert += kGateExperts) {
    gate_tile<ROWS, kGateExperts>(args, row, expert, logits);
  }
  for (; expert < last_expert; ++expert) gate_tile<ROWS, 1>(args, row, expert, logits);
}

// logits float32 [t, e].
static inline void gate_logits(ThreadPool& pool, const GateInputs& args, float* logits) {
  const int64_t expert_pieces = (args.e + kGateExpertsPerTask - 1) / kGateExpertsPerTask;
  const int64_t row_pieces = (args.t + kGateRowsPerTask - 1) / kGateRowsPerTask;
  pool.run(row_pieces * expert_pieces, [=, &args](int64_t task) {
    const int64_t first_expert = task % expert_pieces * kGateExpertsPerTask;
    const int64_t last_expert = smaller(args.e, first_expert + kGateExpertsPerTask);
    int64_t row = task / expert_pieces * kGateRowsPerTask;
    const int64_t end = smaller(args.t, row + kGateRowsPerTask);
    for (; row + kGateRows <= end; row += kGateRows) {
      gate_rows<kGateRows>(args, row, first_expert, last_expert, logits);
    }
    for (; row < end; ++row) gate_rows<1>(args, row, first_expert, last_expert, logits);
  });
}

// The k largest of logits [e], descending, of equal ones the lowest id first. Gives k distinct ids
// even where logits are NaN.
static inline void largest_k(const float* logits, int64_t e, int64_t k, float* values,
                             int64_t* ids) {
  int64_t count = 0;
  for (int64_t expert = 0; expert < e; ++expert) {
    const float value = logits[expert];
    if (count == k && !(value > values[k - 1])) continue;
    int64_t place = count < k ? count++ : k - 1;
    for (; place > 0 && value > values[place - 1]; --place) {
      values[place] = values[place - 1];
      ids[place] = ids[place - 1];
    }
    values[place] = value;
    ids[place] = expert;
  }
}

// values [k], the largest first, become softmax(values).
static inline void softmax_in_place(float* values, int64_t k) {
  const F32 highest = set(values[0]);
  for (int64_t i = 0; i < k; i += kLanes) {
    const int count = static_cast<int>(smaller<int64_t>(kLanes, k - i));
    store_partial(values + i, exp(sub(load_partial(values + i, count), highest)), count);
  }
  float total = 0.0f;
  for (int64_t i = 0; i < k; ++i) total += values[i];
  for (int64_t i = 0; i < k; ++i) values[i] /= total;
}

static void gate(ThreadPool& pool, const uint16_t* x, const float* norm_weight, float eps,
                 const float* gate_weight, const float* gate_bias, int64_t t, int64_t h, int64_t e,
                 int64_t k, uint16_t* normed, float* weights, int64_t* ids) {
  const size_t num_bytes = static_cast<size_t>(t * e) * sizeof(float);
  float* logits = static_cast<float*>(pool.scratch(Scratch::kElementwise, num_bytes));
  rms_norm_rows(pool, x, norm_weight, eps, t, h, normed);
  gate_logits(pool, {normed, gate_weight, gate_bias, t, h, e}, logits);
  for_row_pieces(pool, t, e * k, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      largest_k(logits + row * e, e, k, weights + row * k, ids + row * k);
      softmax_in_place(weights + row * k, k);
    }
  });
}

// ---------------------------------------------------------------------------------------- experts

// One row of swiglu_rows: gate · sigmoid(alpha · gate) · (up + 1), the gate clamped above at
// `limit`, up to ±limit. The limits stand first in min and max, so that NaN passes through.
static inline void swiglu_row(const uint16_t* gate_up, int64_t h, float alpha, float limit,
                              uint16_t* out) {
  const F32 upper = set(limit), lower = set(-limit), slope = set(-alpha), one = set(1.0f);
  for (int64_t i = 0; i < h; i += kLanes) {
    const F32 gated = min(upper, load_bf16(gate_up + i));
    const F32 up = max(lower, min(upper, load_bf16(gate_up + h + i)));
    const F32 sigmoid = div(one, add(exp(mul(gated, slope)), one));
    store_bf16(out + i, mul(mul(sigmoid, gated), add(up, one)));
  }
}

static void swiglu_rows(ThreadPool& pool, const uint16_t* gate_up, int64_t t, int64_t h,
                        float alpha, float limit, uint16_t* out) {
  for_row_pieces(pool, t, h, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      swiglu_row(gate_up + row * 2 * h, h, alpha, limit, out + row * h);
    }
  });
}

static void combine(ThreadPool& pool, const uint16_t* hidden, const uint16_t* slots,
                    const float* weights, const int64_t* places, int64_t t, int64_t k, int64_t h,
                    uint16_t* out) {
  const auto row_of = [=](int64_t slot) {
    return slots + (places == nullptr ? slot : places[slot]) * h;
  };
  for_row_pieces(pool, t, k * h, [=](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t first = row * k;
      for (int64_t i = 0; i < h; i += kLanes) {
        // Products and sums are rounded apart, as in torch: the bits are the reference's.
        F32 total = mul(load_bf16(row_of(first) + i), set(weights[first]));
        for (int64_t slot = first + 1; slot < first + k; ++slot) {
          total = add(total, mul(load_bf16(row_of(slot) + i), set(weights[slot])));
        }
        store_bf16(out + row * h + i, add(load_bf16(hidden + row * h + i), total));
      }
    }
  });
}

}  // namespace gr::GR_NAMESPACE
