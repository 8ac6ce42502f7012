// Which of a few values are the largest.
#pragma once

#include <cstddef>
#include <span>

#include "base/ids.hpp"

namespace stella {

// The places of the `count` largest magnitudes, ascending; of equal ones the first. Fewer where fewer are not
// 0. Returns how many. They are looked at some ten times: best as many as the first cache holds.
//   values  finite
//   places  [values.size()]; what lies behind those returned may be written, too
std::size_t largest_places(std::span<const float> values, std::size_t count, BlockId* places);

}  // namespace stella
