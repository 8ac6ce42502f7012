// How often a block was stepped, in its optimizer's state.
#pragma once

#include <cstdint>
#include <limits>

namespace stella {

// One more step; returns how many there were before. A count that has come to 2^32 - 1 stays there.
inline std::uint32_t count_step(std::uint32_t& steps) {
  const std::uint32_t before = steps;
  steps = before + (before != std::numeric_limits<std::uint32_t>::max());
  return before;
}

}  // namespace stella
