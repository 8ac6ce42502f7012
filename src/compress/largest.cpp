#include "compress/largest.hpp"

#include <algorithm>

#include "kernels/collect.hpp"

namespace stella {
namespace {

// What at least `count` values have, as bits of a score, and as few more as can be; 1 where fewer are not 0.
std::uint32_t threshold_for(std::span<const float> values, std::size_t count) {
  constexpr std::uint32_t kHalfOctave = std::uint32_t{1} << 22;
  if (count_at_least(values, 1) <= count) return 1;
  std::uint32_t enough = 0, too_much = 0;  // `count` at least have so many, fewer have so many
  for (const float value : values) too_much = std::max(too_much, score_bits(value) + 1);
  while (too_much - enough > 1) {
    const std::uint32_t below = std::min(too_much - 1, kHalfOctave);  // thresholds lie near the largest
    const std::uint32_t tried = enough == 0 ? too_much - below : enough + (too_much - enough) / 2;
    const std::size_t found = count_at_least(values, tried);
    if (found == count) return tried;
    (found > count ? enough : too_much) = tried;
  }
  return enough;
}

}  // namespace

std::size_t largest_places(std::span<const float> values, std::size_t count, BlockId* places) {
  const std::uint32_t threshold = threshold_for(values, count);
  const std::size_t found = collect_at_least(values, threshold, places);
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
