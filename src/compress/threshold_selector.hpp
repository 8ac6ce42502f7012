// The paper's cache-aware threshold-v. StellaTrain (SIGCOMM 2024) §3.2.
#pragma once

#include <optional>

#include "compress/selector.hpp"

namespace stella {

// One pass over the scores: blocks whose score exceeds v are sent, and v moves towards the value that lets a
// little more than the budget through.
//
// What differs from the paper and its code, and why:
// - What exceeds the budget is dropped smallest score first, not last place first; the pass starts where the
//   one before ended, so that equal scores take turns. No place in the bucket is favoured.
// - v moves by the measured slope (how many blocks exceed v, and how many 1.1 v), not by fixed steps: it
//   settles in two or three iterations whether scores are crowded (1 % more v, 20 % fewer blocks) or not.
// - Where v is no guide at all (first call, v = 0, scores on another scale) it is read off the scores
//   themselves, in the same call.
class ThresholdSelector : public Selector {
 public:
  explicit ThresholdSelector(std::uint64_t seed) : start_(seed) {}
  void select(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen) override;
  State state() const override;
  void set_state(const State& state) override;

 private:
  // How many blocks of one pass had a score
  struct Counts {
    std::size_t above = 0;         // over v
    std::size_t above_higher = 0;  // over 1.1 v
  };
  Counts scan(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& candidates);
  void keep_largest(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& candidates);
  void read_off(std::span<const float> scores, std::size_t budget);
  void follow(const Counts& counts, std::size_t budget);

  std::optional<float> threshold_;  // v
  std::uint64_t start_;             // modulo the number of blocks: where the next pass starts
  std::vector<float> scratch_;      // scores to be partitioned
};

}  // namespace stella
