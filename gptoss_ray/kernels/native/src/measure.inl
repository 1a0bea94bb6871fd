// What this machine can do at most: bytes read and dots per second.
#pragma once

namespace gr::GR_NAMESPACE {

// Each thread does num_dots independent dots of 16 lanes of pairs.
static void measure_pair_dots(ThreadPool& pool, int64_t num_dots, float* sink) {
  constexpr int kChains = kMaxTileRows;
  uint16_t ones[2 * kLanes];
  for (uint16_t& one : ones) one = to_bf16(1.0f);
  float zeros[kChains * kLanes] = {};
  const uint16_t* operands = ones;
  const float* start = zeros;
  asm volatile("" : "+r"(operands), "+r"(start));  // or all chains would be merged into one
  pool.run(pool.num_threads(), [=](int64_t) {
    F32 acc[kChains];
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = load(start + i * kLanes);
    for (int64_t done = 0; done < num_dots; done += kChains) {
      asm volatile("" ::: "memory");  // nor may a product leave the loop
      const Pairs pairs = load_pairs(operands);
#pragma GCC unroll 16
      for (int i = 0; i < kChains; ++i) acc[i] = dot(acc[i], pairs, pairs);
    }
    float total = 0.0f;
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) total += sum(acc[i]);
    __atomic_store(sink, &total, __ATOMIC_RELAXED);
  });
}

// As measure_pair_dots, but of four codes.
static void measure_code_dots(ThreadPool& pool, int64_t num_dots, float* sink) {
  constexpr int kChains = kMaxTileRows;
  uint8_t ones[Int8::kCodeBytes / 4];
  memset(ones, 1, sizeof ones);
  int8_t signs[4 * kChains];
  for (int i = 0; i < 4 * kChains; ++i) signs[i] = i % 2 == 0 ? 1 : -1;  // so that sums stay small
  int32_t starts[kChains];
  for (int32_t& start : starts) start = 1;
  const uint8_t* weights = ones;
  const int8_t* codes = signs;
  const int32_t* first = starts;
  asm volatile("" : "+r"(weights), "+r"(codes), "+r"(first));
  pool.run(pool.num_threads(), [=](int64_t) {
    const Octet octet = Int8::octet(weights, 0);
    I32 acc[kChains];
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) acc[i] = set_int(first[i]);
    for (int64_t done = 0; done < num_dots; done += kChains) {
      asm volatile("" ::: "memory");
#pragma GCC unroll 16
      for (int i = 0; i < kChains; ++i) {
        acc[i] = dot(acc[i], octet.four[0], reinterpret_cast<const uint8_t*>(codes + 4 * i));
      }
    }
    float total = 0.0f;
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) total += sum(to_float(acc[i]));
    __atomic_store(sink, &total, __ATOMIC_RELAXED);
  });
}

static void measure_dots(ThreadPool& pool, int64_t num_dots, int activations, float* sink) {
  (activations == GR_ACT_INT8 ? measure_code_dots : measure_pair_dots)(pool, num_dots, sink);
}

// Returns the sum of all 64-bit words (and of the bytes after the last whole one) modulo 2^64. Reads in
// order and asks ahead as the matrices do, so that these cannot be faster.
static uint64_t measure_read(ThreadPool& pool, const void* data, size_t num_bytes) {
  constexpr size_t kWord = sizeof(uint64_t);
  constexpr int64_t kLine = 64, kLinesPerTask = (1 << 20) / kLine;
  const uint8_t* const bytes = static_cast<const uint8_t*>(data);
  const int64_t num_lines = static_cast<int64_t>(num_bytes / kLine);
  uint64_t total = 0;
  uint64_t* const result = &total;
  pool.run_chunks(num_lines, kLinesPerTask, [=](int64_t begin, int64_t end, int) {
    uint64_t own[kLine / kWord] = {};
    for (int64_t i = begin; i < end; ++i) {
      const uint8_t* const line = bytes + i * kLine;
      prefetch(line + kPrefetchBytes);
      uint64_t words[kLine / kWord];
      memcpy(words, line, kLine);
      for (size_t w = 0; w < kLine / kWord; ++w) own[w] += words[w];
    }
    for (const uint64_t sum : own) __atomic_fetch_add(result, sum, __ATOMIC_RELAXED);
  });
  size_t at = static_cast<size_t>(num_lines) * kLine;
  for (; at + kWord <= num_bytes; at += kWord) {
    uint64_t word;
    memcpy(&word, bytes + at, kWord);
    total += word;
  }
  for (; at < num_bytes; ++at) total += bytes[at];
  return total;
}

}  // namespace gr::GR_NAMESPACE
