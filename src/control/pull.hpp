// How much of what a member of rule="local" has not told is hidden from its own model.
#pragma once

#include <cstddef>

#include "kernels/hide.hpp"

namespace stella {

// The share that a round hides of what the model shows beside the weights of all. What is hidden is learned
// again until it is told, so W moves further than anybody's optimizer did: that pays while it is to go on in
// the same direction, and makes it swing around where it has arrived. Which of the two is the case, told
// values say: whether they go where the weights of all went last, or back (measured:
// docs/benchmarks/convergence.md). One thread at a time.
class Pull {
 public:
  static constexpr float kMost = 0.5f, kLeast = 0.001f;

  // Of so many values that this member told in a part of a round, and that rounds had changed before,
  // `onwards` have the sign of the last change.
  void told(std::size_t values, std::size_t onwards);
  // That round is over: chooses anew, once enough was told.
  void round_over();
  // A round hides kMost at first. What is hidden is shown again where less is, or it would be told for long.
  Shares shares() const;

 private:
  std::size_t values_ = 0, onwards_ = 0;  // since the share was chosen
  float share_ = kMost;
};

}  // namespace stella
