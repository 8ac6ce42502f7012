#include "exchange/round_plan.hpp"

#include <algorithm>
#include <string>

#include "stella/error.hpp"

namespace stella {

RoundPlan::RoundPlan(std::uint32_t members, Iteration committed)
    : committed_(committed),
      next_{{{RankSet::all(members), RankSet(members)},
             {RankSet::all(members), RankSet(members)},
             {RankSet::all(members), RankSet(members)}}} {
  static_assert(kRoundNotice == 3);
}

void RoundPlan::shrink(const RankSet& set) {
  const RankSet& now = next_.front().contributing;
  if (!set.without(now).empty()) {
    throw Error(ErrorCode::protocol, "round " + std::to_string(committed_ + 1) +
                                         " is said to be one of a member that does not contribute to it");
  }
  const RankSet left = now.without(set);
  for (Standing& standing : next_) standing.contributing = standing.contributing.without(left);
}

RoundPlan::Changes RoundPlan::commit(const RoundMessage& commit) {
  if (commit.round != committed_ + 1) {
    throw Error(ErrorCode::protocol, "a commit of round " + std::to_string(commit.round) + " in place of " +
                                         std::to_string(committed_ + 1));
  }
  Changes changes{RankSet(commit.set.members()), RankSet(commit.set.members())};
  if (commit.round >= known_from_) {
    changes = {next_[0].contributing.without(commit.set), next_[1].listening.without(next_[0].listening)};
    shrink(commit.set);
  }
  std::shift_left(next_.begin(), next_.end(), 1);
  next_.back() = {commit.contributing, commit.listening};
  ++committed_;
  return changes;
}

void RoundPlan::begin_with(const RoundMessage& commit) {
  committed_ = commit.round;
  known_from_ = commit.round + kRoundNotice;
  next_.fill({commit.contributing, commit.listening});
}

}  // namespace stella
