// The kernels on AVX-512 with BF16.
#define GR_NAMESPACE avx512
#include "isa.h"
#include "vec_avx512.h"
// The kernels; they use what stands above.
#include "attention.inl"
#include "elementwise.inl"
#include "matmul.inl"
#include "measure.inl"

namespace gr {
extern const KernelTable kAvx512Kernels = avx512::kTable;
}
