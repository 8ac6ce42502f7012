// Exact top-k over blocks in linear time.
#pragma once

#include <array>

#include "compress/selector.hpp"

namespace stella {

// A histogram over the upper bits of the scores (positive floats sort like their bit patterns) finds the bin
// that holds the budget-th largest score; only inside that bin scores are compared one by one. Blocks whose
// score equals the last one to fit take turns: each call goes on, by position, where the call before stopped.
class BlockSelector : public Selector {
 public:
  explicit BlockSelector(std::uint64_t seed) : turn_(seed) {}
  void select(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen) override;
  State state() const override { return {turn_, 0}; }
  void set_state(const State& state) override { turn_ = state[0]; }

 private:
  static constexpr unsigned kDropped = 18;  // mantissa bits that a bin ignores: 32 bins per factor of two
  static constexpr std::size_t kBins = (std::size_t{1} << 31) >> kDropped;

  void choose_from_boundary(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen);

  std::array<std::uint32_t, kBins> histogram_;
  std::vector<BlockId> boundary_;        // scratch: blocks of the boundary bin, ascending
  std::vector<std::uint32_t> patterns_;  // scratch: their scores' bits
  std::vector<BlockId> above_;           // scratch: blocks of higher bins, ascending
  std::uint64_t turn_;                   // modulo the number of blocks: where the next tie is resolved first
};

}  // namespace stella
