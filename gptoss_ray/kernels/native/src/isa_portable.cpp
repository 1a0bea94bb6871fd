// The kernels on any machine.
#define GR_NAMESPACE portable
#include "isa.h"
#include "vec_portable.h"
// The kernels; they use what stands above.
#include "attention.inl"
#include "elementwise.inl"
#include "matmul.inl"
#include "measure.inl"

namespace gr {
extern const KernelTable kPortableKernels = portable::kTable;
}
