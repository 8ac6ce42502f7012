// Which of a few values are the largest.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.hpp"

namespace stella {

// Chooses the largest of many vectors, one after another: quickest where they are alike. What it chooses
// does not depend on those before. One thread at a time.
class LargestPlaces {
 public:
  // The places of the `count` largest magnitudes, ascending; of equal ones the first. Fewer where fewer are
  // not 0. Returns how many. The values are looked at some five times, some fifty at most: best as many as
  // the first cache holds.
  //   values  finite
  //   places  [values.size()]; what lies behind those returned may be written, too
  std::size_t find(std::span<const float> values, std::size_t count, BlockId* places);

 private:
  std::uint32_t threshold_for(std::span<const float> values, std::size_t count) const;

  std::uint32_t latest_ = 0x3f800000;  // bits of the magnitude that was the least of those chosen: of 1
};

}  // namespace stella
