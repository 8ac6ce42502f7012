#include "compress/random_selector.hpp"

#include <algorithm>
#include <iterator>

namespace stella {

void RandomSelector::select(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen) {
  positive_.clear();
  for (std::size_t block = 0; block < scores.size(); ++block) {
    if (scores[block] > 0) positive_.push_back(static_cast<BlockId>(block));
  }
  chosen.clear();
  std::sample(positive_.begin(), positive_.end(), std::back_inserter(chosen), budget, random_);
}

}  // namespace stella
