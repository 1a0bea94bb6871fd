// The check of the arguments of gr_attention.
#pragma once

#include "api.h"

namespace gr::arguments {

// Throws std::invalid_argument with a sentence about the first shape, pointer, position, slot or
// block id that cannot be. Of block ids only those are looked at that a row sees.
void check_attention(const gr_attention_args& args);

}  // namespace gr::arguments
