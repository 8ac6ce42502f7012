// One call of optimizer.step(), as the coroutines of its buckets see it.
#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "base/event.hpp"
#include "base/ids.hpp"
#include "base/progress.hpp"
#include "stella/engine.hpp"

namespace stella {

// Lives until the last bucket's coroutine is done. Its input's pointers are valid only until hand_over().
class Step {
 public:
  Step(Iteration t, Level how_far, const StepInput& what, std::size_t buckets)
      : iteration(t),
        level(how_far),
        input(what),
        groups(what.groups.begin(), what.groups.end()),
        missing_(buckets) {
    input.groups = groups;
    input.skip = what.skip || what.samples == 0;  // the mean over no samples is no gradient
    skip = input.skip;
  }

  const Iteration iteration;
  const Level level;
  StepInput input;
  const std::vector<GroupSettings> groups;  // by group; outlives the call of step()
  std::atomic<bool> skip;                   // this member contributes nothing in this iteration

  // A bucket's gradients are copied, or never will be. Returns whether it was the last bucket, which then
  // calls hand_over().
  //   bad     the first tensor of the bucket whose gradient is not finite
  //   failed  they never will be
  [[nodiscard]] bool copied(std::optional<std::uint32_t> bad, bool failed) {
    if (failed) failed_ = true;
    if (bad) {
      std::lock_guard lock(mutex_);
      if (!bad_tensor_ || *bad < *bad_tensor_) bad_tensor_ = bad;
      skip = true;
    }
    return missing_.fetch_sub(1) == 1;
  }

  void hand_over() {
    handed_over.set();
    trainer_may_go_on.advance(1);
  }

  Event handed_over;           // for coroutines: nobody needs torch's gradients any more, and skip is final
  Progress trainer_may_go_on;  // the same for the trainer's thread, as iteration 1

  // The copies are complete and must be forgotten. For the last bucket.
  bool to_drop() const { return !failed_ && bad_tensor(); }

  // The parameter to name in Error(nonfinite).
  std::optional<std::uint32_t> bad_tensor() const {
    std::lock_guard lock(mutex_);
    return bad_tensor_;
  }

 private:
  std::atomic<std::size_t> missing_;
  std::atomic<bool> failed_ = false;
  mutable std::mutex mutex_;  // guards what follows
  std::optional<std::uint32_t> bad_tensor_;
};

}  // namespace stella
