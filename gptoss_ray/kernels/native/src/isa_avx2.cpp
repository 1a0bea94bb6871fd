// The kernels on AVX2 with FMA and F16C.
#define GR_NAMESPACE avx2
#include "isa.h"
#include "vec_avx2.h"
// The kernels; they use what stands above.
#include "attention.inl"
#include "elementwise.inl"
#include "matmul.inl"
#include "measure.inl"

namespace gr {
extern const KernelTable kAvx2Kernels = avx2::kTable;
}
