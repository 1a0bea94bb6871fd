// Dense layers and experts: rows are cut into tiles, outputs into panels of 16, and threads take
// ranges of panels. Never is a sum over k shared between threads (law 1).
#pragma once
#include "matmul_rows.inl"

namespace gr::GR_NAMESPACE {

// Weights that one task takes: long runs (threads that take turns at 64 KiB read a fifth slower), ...
constexpr int64_t kStreamBytes = 1 << 20;
// ... or, where several tiles of rows meet them, what stays in a second-level cache beside the
// rows.
constexpr int64_t kReuseBytes = 384 << 10;
constexpr int64_t kTasksPerThread = 4;  // so that threads finish at about the same time

struct Output {
  void* data;  // [rows, n] of `type`
  int type;
  const uint16_t* residual;  // [rows, n], or null
};

// One matrix times its rows.
struct Product {
  const gr_matrix* matrix;
  const uint8_t* rows;  // packed
  const RowTile* tiles;
  int64_t num_tiles;
  Output out;
  int64_t panels_per_task;
  int64_t first_task;
};

GR_INLINE int64_t num_panels(const gr_matrix& matrix) { return ceil_div(matrix.n, kPanel); }

// Adds the residual, rounds once, and writes 16 outputs from index `at` on.
GR_INLINE void write(const Output& out, int64_t at, F32 value) {
  if (out.residual != nullptr) value = add(load_bf16(out.residual + at), value);
  if (out.type == GR_OUT_F32) return store(static_cast<float*>(out.data) + at, value);
  store_bf16(static_cast<uint16_t*>(out.data) + at, value);
}

// As `write`, but the first `count` of them alone.
GR_INLINE void write_partial(const Output& out, int64_t at, F32 value, int count) {
  if (out.residual != nullptr) value = add(load_bf16_partial(out.residual + at, count), value);
  if (out.type == GR_OUT_F32)
    return store_partial(static_cast<float*>(out.data) + at, value, count);
  store_bf16_partial(static_cast<uint16_t*>(out.data) + at, value, count);
}

// Adds bias and residual to sums [rows, 16], rounds once, and writes them at (tile, column).
static void finish(const Product& product, const RowTile& tile, int64_t column, const float* sums) {
  const Output& out = product.out;
  const int64_t n = product.matrix->n;
  const int count = static_cast<int>(smaller(kPanel, n - column));
  const float* const bias = product.matrix->bias;
  const F32 added = bias == nullptr ? zero() : load_partial(bias + column, count);
  for (int64_t row = 0; row < tile.count; ++row) {
    const int64_t at = (tile.first + row) * n + column;
    const F32 value = add(load(sums + row * kPanel), added);
    if (count == kLanes) {
      write(out, at, value);
    } else {
      write_partial(out, at, value, count);
    }
  }
}

// Panels [begin, end) times all rows; codes and scales are those of panel `begin`.
template <class Format, class Rows>
void run_tiles(const Product& product, const uint8_t* codes, const uint8_t* scales, int64_t begin,
               int64_t end) {
  const int64_t num_blocks = product.matrix->k / kBlock;
  for (int64_t i = 0; i < product.num_tiles; ++i) {
    const RowTile& tile = product.tiles[i];
    const uint8_t* const rows = product.rows + tile.first * num_blocks * Rows::kBlockBytes;
    const TileSums sums_of = tile_sums_for<Format, Rows>(tile.count);
    for (int64_t panel = begin; panel < end; ++panel) {
      const int64_t first_block = (panel - begin) * num_blocks;
      alignas(64) float sums[kMaxTileRows * kPanel];
      sums_of(codes + first_block * Format::kCodeBytes, scales + first_block * Format::kScaleBytes,
              rows, num_blocks, sums);
      finish(product, tile, panel * kPanel, sums);
    }
  }
}

template <class Format, class Rows>
void run_panels(const Product& product, int64_t begin, int64_t end) {
  const gr_matrix& matrix = *product.matrix;
  const int64_t first_block = begin * (matrix.k / kBlock);
  const uint8_t* const codes = static_cast<const uint8_t*>(matrix.codes);
  const uint8_t* const scales = static_cast<const uint8_t*>(matrix.scales);
  run_tiles<Format, Rows>(product, codes + first_block * Format::kCodeBytes,
                          scales + first_block * Format::kScaleBytes, begin, end);
}

static void run_task(const Product& product, int64_t task) {
  const int64_t begin = task * product.panels_per_task;
  const int64_t end = smaller(begin + product.panels_per_task, num_panels(*product.matrix));
  const bool is_coded = product.matrix->activations == GR_ACT_INT8;
  switch (product.matrix->format) {
    case GR_MXFP4:
      return is_coded ? run_panels<Mxfp4, CodedRows>(product, begin, end)
                      : run_panels<Mxfp4, PairRows>(product, begin, end);
    case GR_INT8:
      return is_coded ? run_panels<Int8, CodedRows>(product, begin, end)
                      : run_panels<Int8, PairRows>(product, begin, end);
    default:
      return run_panels<Bf16, PairRows>(product, begin, end);
  }
}

static int64_t panel_bytes(const gr_matrix& matrix) {
  const int64_t num_blocks = matrix.k / kBlock;
  switch (matrix.format) {
    case GR_MXFP4:
      return num_blocks * Mxfp4::kCodeBytes;
    case GR_INT8:
      return num_blocks * Int8::kCodeBytes;
    default:
      return num_blocks * Bf16::kCodeBytes;
  }
}

// How many panels one task of this product takes; `most` keeps all threads busy.
static int64_t panels_per_task(const Product& product, int64_t most) {
  const int64_t bytes = panel_bytes(*product.matrix);
  const int64_t panels =
      product.num_tiles == 1 ? ceil_div(kStreamBytes, bytes) : kReuseBytes / bytes;
  return larger<int64_t>(1, smaller(panels, most));
}

// Does all products in one parallel phase.
static void run_products(ThreadPool& pool, Product* products, int64_t count) {
  int64_t all_panels = 0;
  for (int64_t i = 0; i < count; ++i) all_panels += num_panels(*products[i].matrix);
  const int64_t most = all_panels / (kTasksPerThread * pool.num_threads());
  int64_t num_tasks = 0;
  for (int64_t i = 0; i < count; ++i) {
    Product& product = products[i];
    product.panels_per_task = panels_per_task(product, most);
    product.first_task = num_tasks;
    num_tasks += ceil_div(num_panels(*product.matrix), product.panels_per_task);
  }
  pool.run(num_tasks, [=](int64_t task) {
    int64_t i = count - 1;
    while (products[i].first_task > task) --i;
    run_task(products[i], task - products[i].first_task);
  });
}

static void linear(ThreadPool& pool, const LinearArgs& args) {
  const int64_t count = num_tiles(args.t);
  RowTile* const tiles = static_cast<RowTile*>(
      pool.scratch(Scratch::kRowTiles, static_cast<size_t>(count) * sizeof(RowTile)));
  cut_rows(0, args.t, tiles);
  const uint8_t* const rows = pack_rows(pool, args.x, *args.matrix, tiles, count);
  Product product = {args.matrix, rows, tiles, count, {args.out, args.out_type, args.residual},
                     0,           0};
  run_products(pool, &product, 1);
}

// What the products of both expert layers share: which rows meet which expert.
struct ExpertRows {
  RowTile* tiles;
  int64_t num_tiles;
  int64_t num_rows;
  int64_t num_used;  // experts with rows
};

static ExpertRows cut_expert_rows(ThreadPool& pool, const ExpertsArgs& args) {
  ExpertRows rows = {nullptr, 0, 0, 0};
  for (int64_t e = 0; e < args.num_experts; ++e) {
    rows.num_tiles += num_tiles(args.num_rows[e]);
    rows.num_used += args.num_rows[e] > 0;
  }
  const size_t bytes = static_cast<size_t>(rows.num_tiles) * sizeof(RowTile);
  rows.tiles = static_cast<RowTile*>(pool.scratch(Scratch::kRowTiles, bytes));
  RowTile* end = rows.tiles;
  for (int64_t e = 0; e < args.num_experts; ++e) {
    end = cut_rows(rows.num_rows, args.num_rows[e], end);
    rows.num_rows += args.num_rows[e];
  }
  return rows;
}

// out [R, n] = each expert's rows of x [R, k] times its matrix.
static void expert_layer(ThreadPool& pool, const ExpertsArgs& args, const ExpertRows& rows,
                         const gr_matrix* matrices, const uint16_t* x, uint16_t* out) {
  const uint8_t* const packed = pack_rows(pool, x, matrices[0], rows.tiles, rows.num_tiles);
  const size_t bytes = static_cast<size_t>(rows.num_used) * sizeof(Product);
  Product* const products = static_cast<Product*>(pool.scratch(Scratch::kProducts, bytes));
  const RowTile* tiles = rows.tiles;
  int64_t count = 0;
  for (int64_t e = 0; e < args.num_experts; ++e) {
    if (args.num_rows[e] == 0) continue;
    const int64_t own = num_tiles(args.num_rows[e]);
    products[count++] = {&matrices[e], packed, tiles, own, {out, GR_OUT_BF16, nullptr}, 0, 0};
    tiles += own;
  }
  run_products(pool, products, count);
}

static void experts(ThreadPool& pool, const ExpertsArgs& args) {
  const ExpertRows rows = cut_expert_rows(pool, args);
  const int64_t inner = args.down[0].k;
  const size_t bytes = static_cast<size_t>(rows.num_rows * inner) * sizeof(uint16_t);
  uint16_t* const gate_up = static_cast<uint16_t*>(pool.scratch(Scratch::kGateUp, 2 * bytes));
  uint16_t* const swiglu = static_cast<uint16_t*>(pool.scratch(Scratch::kSwiglu, bytes));
  expert_layer(pool, args, rows, args.gate_up, args.x, gate_up);
  swiglu_rows(pool, gate_up, rows.num_rows, inner, args.alpha, args.limit, swiglu);
  expert_layer(pool, args, rows, args.down, swiglu, args.out);
}

}  // namespace gr::GR_NAMESPACE
