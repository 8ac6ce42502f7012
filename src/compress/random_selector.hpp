// Random-k: what the papers compare with.
#pragma once

#include <random>

#include "compress/selector.hpp"

namespace stella {

// Any `budget` of the blocks that have something to send, all sets equally likely.
class RandomSelector : public Selector {
 public:
  explicit RandomSelector(std::uint64_t seed) : random_(seed) {}
  void select(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen) override;

 private:
  std::mt19937_64 random_;
  std::vector<BlockId> positive_;  // scratch
};

}  // namespace stella
