#include "compress/largest.hpp"

#include <algorithm>

#include "kernels/collect.hpp"

namespace stella {

// What at least `count` values have, as bits of a score, and as few more as can be; 1 where fewer are not 0.
// From the latest one on in ever larger strides, then by halves.
std::uint32_t LargestPlaces::threshold_for(std::span<const float> values, std::size_t count) const {
  constexpr std::uint32_t kInfinity = 0x7f800000;
  std::uint32_t enough = 0, too_much = kInfinity;  // `count` at least have so many, fewer have so many
  std::uint32_t stride = std::uint32_t{1} << 19;   // a sixteenth of an octave
  for (std::uint32_t tried = latest_; too_much - enough > 1; stride *= 2) {
    const std::size_t found = count_at_least(values, tried);
    if (found == count) return tried;
    (found > count ? enough : too_much) = tried;
    if (too_much == kInfinity)
      tried = enough + std::min(stride, too_much - 1 - enough);
    else if (enough == 0)
      tried = too_much - std::min(stride, too_much - 1);
    else
      tried = enough + (too_much - enough) / 2;
  }
  return std::max<std::uint32_t>(enough, 1);
}

std::size_t LargestPlaces::find(std::span<const float> values, std::size_t count, BlockId* places) {
  const std::uint32_t threshold = threshold_for(values, count);
  const std::size_t found = collect_at_least(values, threshold, places);
  latest_ = threshold;
  if (found <= count) return found;
  std::size_t room = count - count_at_least(values, threshold + 1);  // for those that have just so much
  std::size_t kept = 0;
  for (std::size_t k = 0; k < found; ++k) {
    const bool least = score_bits(values[places[k]]) == threshold;
    if (least && room == 0) continue;
    room -= least;
    places[kept++] = places[k];
  }
  return kept;
}

}  // namespace stella
