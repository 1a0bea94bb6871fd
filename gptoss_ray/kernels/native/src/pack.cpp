#include "pack.h"

#include <math.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>

namespace gr {
namespace {

constexpr int64_t kPanel = 16;
constexpr int64_t kBlock = 32;

// Asks for huge pages for the pages that lie wholly in the range: weights are read from end to end,
// and a page table walk per 4 KiB costs bandwidth. Only a hint; where it is refused nothing
// changes.
void want_huge_pages(void* data, size_t bytes) {
#if defined(MADV_HUGEPAGE)
  const uintptr_t page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const uintptr_t begin = (reinterpret_cast<uintptr_t>(data) + page - 1) / page * page;
  const uintptr_t end = (reinterpret_cast<uintptr_t>(data) + bytes) / page * page;
  if (begin < end) madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
#else
  (void)data;
  (void)bytes;
#endif
}

int64_t num_panels(int64_t n) { return (n + kPanel - 1) / kPanel; }

// Calls pack(panel, first_row, num_rows) for every panel, on all threads.
template <class Pack>
void for_each_panel(ThreadPool& pool, int64_t n, const Pack& pack) {
  pool.run(num_panels(n), [&](int64_t panel) {
    const int64_t first = panel * kPanel;
    pack(panel, first, std::min(kPanel, n - first));
  });
}

// 8 codes in order of k -> those of even k in the low 16 bits, those of odd k in the high ones.
uint32_t split_codes(uint32_t v) {
  uint32_t even = v & 0x0f0f0f0f;
  uint32_t odd = (v >> 4) & 0x0f0f0f0f;
  even = (even | (even >> 4)) & 0x00ff00ff;
  odd = (odd | (odd >> 4)) & 0x00ff00ff;
  even = (even | (even >> 8)) & 0xffff;
  odd = (odd | (odd >> 8)) & 0xffff;
  return even | (odd << 16);
}

// Nearest float16 of x >= 0, ties to even, at most the largest finite one.
uint16_t to_half(float x) {
  constexpr float kLargest = 65504.0f;
  constexpr float kSmallestNormal = 6.103515625e-5f;  // 2^-14
  if (x >= kLargest) return 0x7bff;
  if (x < kSmallestNormal) {
    // At 0.5 the last bit of a float is worth 2^-24, as is that of a subnormal half.
    const float shifted = x + 0.5f;
    uint32_t bits;
    memcpy(&bits, &shifted, sizeof bits);
    return static_cast<uint16_t>(bits - 0x3f000000);
  }
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  bits += 0xfff + ((bits >> 13) & 1);
  return static_cast<uint16_t>((bits >> 13) - ((127 - 15) << 10));
}

float from_half(uint16_t x) {  // finite, >= 0
  if (x < 0x400) return static_cast<float>(x) * 5.9604644775390625e-8f;
  const uint32_t bits = (static_cast<uint32_t>(x) << 13) + ((127u - 15u) << 23);
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

float from_bf16(uint16_t x) {
  const uint32_t bits = static_cast<uint32_t>(x) << 16;
  float value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

// Quantizes 32 weights into codes[2 i], codes[2 i + 1] of every pair i at `codes + 32 i`. Returns
// false where one is not finite.
bool quantize_block(const uint16_t* weight, int8_t* codes, uint16_t* out_scale) {
  float values[kBlock];
  float most = 0.0f;
  bool finite = true;
  for (int64_t i = 0; i < kBlock; ++i) {
    values[i] = from_bf16(weight[i]);
    most = std::max(most, fabsf(values[i]));
    finite = finite && (weight[i] & 0x7f80) != 0x7f80;
  }
  if (!finite) return false;
  *out_scale = to_half(most / 127.0f);
  const float scale = from_half(*out_scale);
  for (int64_t i = 0; i < kBlock; ++i) {
    // At 1.5 * 2^23 the last bit of a float is worth 1, so that adding rounds to nearest even.
    constexpr float kMagic = 12582912.0f;
    const float ratio = scale > 0.0f ? values[i] / scale : 0.0f;
    const float code = (std::min(std::max(ratio, -127.0f), 127.0f) + kMagic) - kMagic;
    codes[i / 2 * 2 * kPanel + i % 2] = static_cast<int8_t>(code);
  }
  return true;
}

}  // namespace

void pack_mxfp4(ThreadPool& pool, const uint8_t* blocks, const uint8_t* scales, int64_t n,
                int64_t k, uint8_t* out_codes, uint8_t* out_scales) {
  constexpr int64_t kBlockBytes = 16;  // of one row
  const int64_t num_blocks = k / kBlock;
  const size_t panel_blocks = static_cast<size_t>(num_panels(n) * num_blocks);
  want_huge_pages(out_codes, panel_blocks * kPanel * kBlockBytes);
  want_huge_pages(out_scales, panel_blocks * kPanel);
  for_each_panel(pool, n, [=](int64_t panel, int64_t first, int64_t num_rows) {
    uint8_t* codes = out_codes + panel * num_blocks * kPanel * kBlockBytes;
    uint8_t* own_scales = out_scales + panel * num_blocks * kPanel;
    for (int64_t block = 0; block < num_blocks; ++block) {
      if (num_rows < kPanel) {
        memset(codes, 0, kPanel * kBlockBytes);
        memset(own_scales, 0, kPanel);
      }
      for (int64_t row = 0; row < num_rows; ++row) {
        const int64_t source = (first + row) * num_blocks + block;
        uint32_t chunks[4];
        memcpy(chunks, blocks + source * kBlockBytes, sizeof chunks);
        for (int64_t c = 0; c < 4; ++c) {
          const uint32_t packed = split_codes(chunks[c]);
          memcpy(codes + (c * kPanel + row) * 4, &packed, sizeof packed);
        }
        own_scales[row] = scales[source];
      }
      codes += kPanel * kBlockBytes;
      own_scales += kPanel;
    }
  });
}

void pack_bf16(ThreadPool& pool, const uint16_t* weight, int64_t n, int64_t k,
               uint16_t* out_codes) {
  want_huge_pages(out_codes, static_cast<size_t>(num_panels(n) * kPanel * k) * sizeof *out_codes);
  for_each_panel(pool, n, [=](int64_t panel, int64_t first, int64_t num_rows) {
    uint16_t* out = out_codes + panel * kPanel * k;
    for (int64_t i = 0; i < k; i += 2) {
      if (num_rows < kPanel) memset(out, 0, 2 * kPanel * sizeof *out);
      for (int64_t row = 0; row < num_rows; ++row) {
        memcpy(out + 2 * row, weight + (first + row) * k + i, 2 * sizeof *out);
      }
      out += 2 * kPanel;
    }
  });
}

bool pack_int8(ThreadPool& pool, const uint16_t* weight, int64_t n, int64_t k, int8_t* out_codes,
               uint16_t* out_scales) {
  const int64_t num_blocks = k / kBlock;
  const size_t panel_blocks = static_cast<size_t>(num_panels(n) * num_blocks);
  want_huge_pages(out_codes, panel_blocks * kPanel * kBlock);
  want_huge_pages(out_scales, panel_blocks * kPanel * sizeof *out_scales);
  std::atomic<bool> finite{true};
  for_each_panel(pool, n, [=, &finite](int64_t panel, int64_t first, int64_t num_rows) {
    int8_t* codes = out_codes + panel * num_blocks * kPanel * kBlock;
    uint16_t* scales = out_scales + panel * num_blocks * kPanel;
    for (int64_t block = 0; block < num_blocks; ++block) {
      if (num_rows < kPanel) {
        memset(codes, 0, kPanel * kBlock);
        memset(scales, 0, kPanel * sizeof *scales);
      }
      for (int64_t row = 0; row < num_rows; ++row) {
        const uint16_t* const source = weight + (first + row) * k + block * kBlock;
        if (!quantize_block(source, codes + 2 * row, scales + row)) finite = false;
      }
      codes += kPanel * kBlock;
      scales += kPanel;
    }
  });
  return finite;
}

}  // namespace gr
