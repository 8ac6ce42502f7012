// Who contributes to the next rounds of rule="local", and who only hears them: what commits have said so far.
#pragma once

#include <array>
#include <cstdint>

#include "base/ids.hpp"
#include "base/rank_set.hpp"
#include "exchange/round_message.hpp"

namespace stella {

// The same on all members that have seen the same commits. Pure; one thread at a time.
class RoundPlan {
 public:
  // Of a run in which all contribute to the rounds after `committed`.
  RoundPlan(std::uint32_t members, Iteration committed);

  Iteration committed() const { return committed_; }
  // Whether commits have said so much: of the kRoundNotice rounds after the newest that is committed.
  bool knows(Iteration round) const { return round > committed_ && round <= committed_ + kRoundNotice; }
  // Only of rounds that it knows.
  const RankSet& contributing(Iteration round) const { return at(round).contributing; }
  const RankSet& listening(Iteration round) const { return at(round).listening; }

  // The next round shall be one of `set`, some of those who contribute to it: the others are out, of later
  // rounds too. Throws Error(protocol) for others.
  void shrink(const RankSet& set);
  // The same, for good. Throws Error(protocol) for a round that is not the next one.
  struct Changes {
    RankSet left;       // who contributed to rounds up to that one, and now is out
    RankSet newcomers;  // who begins to listen behind it
  };
  Changes commit(const RoundMessage& commit);
  // Knows no earlier commit than this one: only what it says of the round `commit.round` + kRoundNotice is
  // right from here on.
  void begin_with(const RoundMessage& commit);

 private:
  struct Standing {
    RankSet contributing;
    RankSet listening;
  };
  const Standing& at(Iteration round) const { return next_.at(round - committed_ - 1); }

  Iteration committed_;
  Iteration known_from_ = 0;  // of the rounds before, commits that were missed have said who contributes
  std::array<Standing, kRoundNotice> next_;  // of rounds committed_ + 1, + 2, ...
};

}  // namespace stella
