// What could be wrong with the arguments of gr_attention.
#pragma once

#include "api.h"

namespace gr {

// Returns a sentence about the first shape, pointer, position, slot or block id that cannot be, or
// null. The sentence lives until this thread's next call. Of block ids only those are looked at
// that a row sees.
const char* attention_problem(const gr_attention_args& args);

}  // namespace gr
