// Random-k: what the papers compare with.
#pragma once

#include "compress/selector.hpp"

namespace stella {

// Any `budget` of the blocks that have something to send, all sets equally likely. Each call has random
// numbers of its own, so that all there is to save is how many there were.
class RandomSelector : public Selector {
 public:
  explicit RandomSelector(std::uint64_t seed) : seed_(seed) {}
  void select(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen) override;
  State state() const override { return {calls_, 0}; }
  void set_state(const State& state) override { calls_ = state[0]; }

 private:
  const std::uint64_t seed_;
  std::uint64_t calls_ = 0;
  std::vector<BlockId> positive_;  // scratch
};

}  // namespace stella
