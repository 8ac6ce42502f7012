#include "compress/random_selector.hpp"

#include <algorithm>
#include <iterator>
#include <random>

namespace stella {
namespace {

std::mt19937_64 random_numbers(std::uint64_t seed, std::uint64_t call) {
  std::seed_seq mixed{seed, seed >> 32, call, call >> 32};  // takes 32 bits of each
  return std::mt19937_64(mixed);
}

}  // namespace

void RandomSelector::select(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen) {
  positive_.clear();
  for (std::size_t block = 0; block < scores.size(); ++block) {
    if (scores[block] > 0) positive_.push_back(static_cast<BlockId>(block));
  }
  chosen.clear();
  auto random = random_numbers(seed_, calls_++);
  std::sample(positive_.begin(), positive_.end(), std::back_inserter(chosen), budget, random);
}

}  // namespace stella
