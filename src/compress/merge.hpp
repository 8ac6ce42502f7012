// All members' contributions to a bucket become one gradient.
#pragma once

#include <span>

#include "compress/sparse_gradient.hpp"

namespace stella {

// The sum of `contributions`, in the order given, which must be the same on every member (member order),
// divided by float(total_samples). Every block that anybody sent is in the result. A block's sum starts from
// its first contributor's values and grows in fp32, each addition rounded: same bits on every machine.
//   total_samples  of all members in this iteration. Throws Error(protocol) if it is not above 0 although
//                  somebody sent a block.
// Cost: what was sent, times the logarithm of the number of contributions; nothing depends on the bucket's
// size.
SparseGradient merge(std::span<const SparseGradient> contributions, double total_samples);

}  // namespace stella
