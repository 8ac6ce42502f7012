#include "exchange/round_commits.hpp"

#include <algorithm>

namespace stella {
namespace {

// Rounds that a member may hold before the next one is committed, with room.
constexpr Iteration kAhead = 2 * kRoundNotice;

}  // namespace

RoundCommits::RoundCommits(std::uint32_t members, Iteration committed)
    : plan_(members, committed),
      reports_(members),
      contributing_(RankSet::all(members)),
      listening_(members),
      again_(members),
      audience_(RankSet::all(members)) {}

void RoundCommits::holds(Rank rank, Iteration round, const RankSet& set) {
  if (round <= plan_.committed() || round > plan_.committed() + kAhead) return;
  reports_.at(rank).insert_or_assign(round, set);
}

void RoundCommits::rejoins(Rank rank) {
  again_.add(rank);
  contributing_.remove(rank);  // let in too early: it has missed something
  listening_.remove(rank);
  audience_.add(rank);
}

void RoundCommits::ready(Rank rank) {
  if (!listening_.has(rank)) return;
  listening_.remove(rank);
  contributing_.add(rank);
}

RankSet RoundCommits::reporters() const {
  RankSet found(members());
  for (Rank rank = 0; rank < members(); ++rank) {
    const auto report = reports_[rank].find(round());
    if (report != reports_[rank].end() && report->second == set()) found.add(rank);
  }
  return found;
}

std::optional<RoundMessage> RoundCommits::commit() {
  if (set().size() < kLeast || !awaited().empty()) return std::nullopt;
  RoundMessage commit = round_message(RoundMessageKind::commit, round(), members());
  commit.set = set();
  commit.contributing = contributing_;
  commit.listening = listening_;
  plan_.commit(commit);
  for (auto& of_member : reports_) of_member.erase(commit.round);
  return commit;
}

void RoundCommits::sent() {
  audience_ = RankSet(members());
  for (Rank rank = 0; rank < members(); ++rank) {
    if (again_.has(rank)) listening_.add(rank);
    if (contributing_.has(rank) || listening_.has(rank)) audience_.add(rank);
  }
  again_ = RankSet(members());
}

std::optional<RoundMessage> RoundCommits::leave_out(const RankSet& here, const RankSet& silent) {
  RankSet out = set().without(here);  // nobody can hold what does not come even here
  if (out.empty()) out = awaited().both(silent);
  if (out.empty()) out = awaited();  // two of them may not reach each other
  const RankSet rest = set().without(out);
  if (out.empty() || rest.size() < kLeast) return std::nullopt;
  plan_.shrink(rest);
  contributing_ = contributing_.without(out);
  RoundMessage proposal = round_message(RoundMessageKind::proposal, round(), members());
  proposal.set = rest;
  return proposal;
}

}  // namespace stella
