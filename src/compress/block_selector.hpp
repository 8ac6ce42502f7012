// Exact top-k over blocks, for about the price of a threshold.
#pragma once

#include <array>

#include "compress/selector.hpp"

namespace stella {

// The scores of one iteration resemble those of the one before. So blocks are first held against a threshold
// somewhat below the smallest score that was chosen then: one comparison each, and a few more than the budget
// are left. Among these the choice is exact: a histogram over the upper bits of the scores (positive floats
// sort like their bit patterns) finds the bin that holds the budget-th largest; only inside that bin scores
// are compared one by one. Where fewer than the budget are left, all blocks with a score above 0 are
// candidates: whatever the threshold, the choice is the same.
//
// Blocks whose score equals the last one to fit take turns: each call goes on, by position, where the call
// before stopped.
class BlockSelector : public Selector {
 public:
  explicit BlockSelector(std::uint64_t seed) : turn_(seed) {}
  void select(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen) override;
  State state() const override { return {turn_, 0}; }
  void set_state(const State& state) override { turn_ = state[0]; }

  // Of all calls so far, those in which the threshold left fewer than the budget.
  std::size_t misses() const { return misses_; }

 private:
  static constexpr unsigned kDropped = 18;  // mantissa bits that a bin ignores: 32 bins per factor of two
  static constexpr std::size_t kBins = (std::size_t{1} << 31) >> kDropped;
  static constexpr std::uint32_t kOctave = std::uint32_t{1} << 23;  // a factor of two, in bits of a score

  std::span<const BlockId> candidates(std::span<const float> scores, std::size_t budget);
  void choose(std::span<const float> scores, std::span<const BlockId> candidates, std::size_t budget,
              std::vector<BlockId>& chosen);
  std::uint32_t margin_for(std::size_t count, std::size_t bin, std::size_t above) const;
  std::uint32_t next_threshold(std::uint32_t smallest);
  void choose_from_boundary(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen);

  std::array<std::uint32_t, kBins> histogram_;
  std::vector<BlockId> candidates_;      // scratch, ascending
  std::vector<BlockId> boundary_;        // scratch: candidates of the boundary bin, ascending
  std::vector<std::uint32_t> patterns_;  // scratch: their scores' bits
  std::vector<BlockId> above_;           // scratch: candidates of higher bins, ascending
  std::uint32_t threshold_ = 1;          // bits of a score; 1: everything above 0
  std::uint32_t margin_ = kOctave / 2;   // from the smallest score that was chosen down to it, at least
  std::uint32_t smallest_ = 0;           // bits of the smallest score that was chosen in the last call
  std::uint32_t sank_ = 0;               // by how much it sank between two calls; fades
  std::size_t misses_ = 0;
  std::uint64_t turn_;  // modulo the number of blocks: where the next tie is resolved first
};

}  // namespace stella
