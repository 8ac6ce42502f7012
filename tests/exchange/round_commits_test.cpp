// The coordinator of rule="local", without a network and without a clock.
#include "exchange/round_commits.hpp"

#include <gtest/gtest.h>

#include <deque>
#include <map>
#include <vector>

#include "kernels/kernel_testing.hpp"

namespace stella::testing {
namespace {

RankSet of(std::initializer_list<Rank> ranks, std::uint32_t members = 4) {
  RankSet set(members);
  for (const Rank rank : ranks) set.add(rank);
  return set;
}

void report(RoundCommits& commits, Iteration round, const RankSet& set) {
  for (Rank rank = 0; rank < set.members(); ++rank) {
    if (set.has(rank)) commits.holds(rank, round, set);
  }
}

RoundMessage committed(RoundCommits& commits) {
  const auto commit = commits.commit();
  EXPECT_TRUE(commit);
  commits.sent();
  return commit.value_or(round_message(RoundMessageKind::commit, 0, 4));
}

TEST(RoundCommits, ARoundIsCommittedOnceAllItsMembersHoldAllOfIt) {
  RoundCommits commits(4, 0);
  for (const Rank rank : {0u, 1u, 2u}) commits.holds(rank, 1, of({0, 1, 2, 3}));
  EXPECT_FALSE(commits.commit());
  commits.holds(3, 1, of({0, 1, 2}));  // not of the set that it is about
  EXPECT_FALSE(commits.commit());
  EXPECT_EQ(commits.awaited(), of({3}));
  commits.holds(3, 1, of({0, 1, 2, 3}));
  EXPECT_TRUE(commits.awaited().empty());
  const RoundMessage commit = committed(commits);
  EXPECT_EQ(commit.round, 1u);
  EXPECT_EQ(commit.set, of({0, 1, 2, 3}));
  EXPECT_EQ(commit.contributing, of({0, 1, 2, 3}));
  EXPECT_FALSE(commits.commit());
  EXPECT_EQ(commits.round(), 2u);
}

TEST(RoundCommits, RoundsAreCommittedInOrderWhicheverIsHeldFirst) {
  RoundCommits commits(2, 7);
  report(commits, 9, of({0, 1}, 2));
  EXPECT_FALSE(commits.commit());
  report(commits, 8, of({0, 1}, 2));
  EXPECT_EQ(committed(commits).round, 8u);
  EXPECT_EQ(committed(commits).round, 9u);
}

TEST(RoundCommits, OverdueAMemberWhosePayloadHasNotComeIsLeftOut) {
  RoundCommits commits(4, 0);
  const auto proposal = commits.leave_out(of({0, 1, 3}), of({}));
  ASSERT_TRUE(proposal);
  EXPECT_EQ(proposal->kind, RoundMessageKind::proposal);
  EXPECT_EQ(proposal->set, of({0, 1, 3}));
  report(commits, 1, of({0, 1, 3}));
  const RoundMessage commit = committed(commits);
  EXPECT_EQ(commit.set, of({0, 1, 3}));
  EXPECT_EQ(commit.contributing, of({0, 1, 3}));
  EXPECT_EQ(commits.audience(), of({0, 1, 3}));
  EXPECT_EQ(commits.set(), of({0, 1, 3}));  // of the next one, too
}

// Its payload has come, but it does not say what it holds: so others may wait for what it does not tell.
TEST(RoundCommits, OverdueWhoIsSilentIsLeftOutBeforeThoseWhoOnlyWaitForIt) {
  RoundCommits commits(4, 0);
  for (const Rank rank : {0u, 1u}) commits.holds(rank, 1, of({0, 1, 2, 3}));
  const auto proposal = commits.leave_out(of({0, 1, 2, 3}), of({3}));  // 2 lacks 3's
  ASSERT_TRUE(proposal);
  EXPECT_EQ(proposal->set, of({0, 1, 2}));
}

TEST(RoundCommits, OverdueTwoThatDoNotReachEachOtherAreBothLeftOut) {
  RoundCommits commits(4, 0);
  for (const Rank rank : {0u, 1u}) commits.holds(rank, 1, of({0, 1, 2, 3}));
  const auto proposal = commits.leave_out(of({0, 1, 2, 3}), of({}));
  ASSERT_TRUE(proposal);
  EXPECT_EQ(proposal->set, of({0, 1}));
}

TEST(RoundCommits, OneMemberAloneIsNoRoundAndWaits) {
  RoundCommits commits(2, 0);
  EXPECT_FALSE(commits.leave_out(of({0}, 2), of({1}, 2)));
  EXPECT_EQ(commits.set(), of({0, 1}, 2));
}

TEST(RoundCommits, WhoseReportWasOfALargerSetIsAskedAgain) {
  RoundCommits commits(4, 0);
  for (const Rank rank : {0u, 1u, 2u}) commits.holds(rank, 2, of({0, 1, 2, 3}));
  commits.leave_out(of({0, 1, 2}), of({}));
  report(commits, 1, of({0, 1, 2}));
  committed(commits);
  EXPECT_FALSE(commits.commit());
  report(commits, 2, of({0, 1, 2}));
  EXPECT_EQ(committed(commits).round, 2u);
}

TEST(RoundCommits, AMemberThatWasLeftOutHearsAndThenContributesAgain) {
  RoundCommits commits(4, 0);
  commits.leave_out(of({0, 1, 2}), of({3}));
  const RankSet rest = of({0, 1, 2});
  report(commits, 1, rest);
  committed(commits);
  commits.ready(3);  // it has heard nothing
  commits.rejoins(3);
  EXPECT_EQ(commits.audience(), of({0, 1, 2, 3}));
  report(commits, 2, rest);
  EXPECT_EQ(committed(commits).listening, of({}));  // whoever asks can tell old commits from new ones
  report(commits, 3, rest);
  RoundMessage commit = committed(commits);
  EXPECT_EQ(commit.contributing, rest);
  EXPECT_EQ(commit.listening, of({3}));
  commits.ready(3);
  report(commits, 4, rest);
  commit = committed(commits);
  EXPECT_EQ(commit.contributing, of({0, 1, 2, 3}));
  EXPECT_EQ(commit.listening, of({}));
  for (const Iteration round : {5, 6}) {  // the notice
    EXPECT_EQ(commits.set(), rest);
    report(commits, round, rest);
    EXPECT_EQ(committed(commits).round, round);
  }
  EXPECT_EQ(commits.set(), of({0, 1, 2, 3}));
}

TEST(RoundCommits, WhoAsksAgainIsNoListenerForOneCommitSoThatItIsANewcomerOnceMore) {
  RoundCommits commits(3, 0);
  commits.leave_out(of({0, 1}, 3), of({}, 3));
  commits.rejoins(2);
  const RankSet rest = of({0, 1}, 3);
  Iteration round = 1;
  const auto next = [&] {
    report(commits, round++, rest);
    return committed(commits).listening;
  };
  EXPECT_EQ(next(), of({}, 3));
  EXPECT_EQ(next(), of({2}, 3));
  for (const bool silent : {false, true}) {
    if (silent) commits.stop_listening(2);  // between two commits: the others would see no gap
    commits.rejoins(2);
    EXPECT_EQ(next(), of({}, 3));
    EXPECT_EQ(next(), of({2}, 3));
  }
  commits.ready(2);  // then it is stopped, and asks before it was let in
  commits.rejoins(2);
  EXPECT_EQ(next(), of({}, 3));
  EXPECT_EQ(next(), of({2}, 3));
}

// Members, their payloads and the coordinator's messages, each as late as chance wants it, and members that
// fall silent: whatever happens, who is in a committed round holds all of it, and no commit or proposal names
// somebody whom its receivers think to be out (RoundPlan would throw).
struct Simulation {
  static constexpr std::uint32_t kMembers = 5;
  struct Member {
    RoundPlan plan{kMembers, 0};
    bool out = false;
    bool silent = false;
    Iteration begun = 0;
    std::map<Iteration, RankSet> holds;
    std::map<Iteration, RankSet> reported;
    std::deque<RoundMessage> inbox;  // from the coordinator, in order
  };
  struct Payload {
    Rank from, to;
    Iteration round;
  };

  void begin(Rank rank) {
    Member& member = members[rank];
    if (member.silent || member.out || member.begun >= member.plan.committed() + 2) return;
    const Iteration round = ++member.begun;
    if (!member.plan.contributing(round).has(rank)) return;
    for (Rank to = 0; to < kMembers; ++to) {
      if (member.plan.contributing(round).has(to)) payloads.push_back({rank, to, round});
    }
  }
  void deliver_payload(std::size_t which) {
    const Payload payload = payloads[which];
    if (members[payload.from].silent || members[payload.to].silent) return;  // later
    payloads.erase(payloads.begin() + static_cast<std::ptrdiff_t>(which));
    members[payload.to].holds.try_emplace(payload.round, kMembers).first->second.add(payload.from);
    look(payload.to);
  }
  void deliver_message(Rank rank) {
    Member& member = members[rank];
    if (member.silent || member.out || member.inbox.empty()) return;
    const RoundMessage message = member.inbox.front();
    member.inbox.pop_front();
    if (message.kind == RoundMessageKind::proposal) {
      if (message.round == member.plan.committed() + 1) member.plan.shrink(message.set);
    } else {
      member.plan.commit(message);
      member.out = !message.set.has(rank);
    }
    look(rank);
  }
  void look(Rank rank) {
    Member& member = members[rank];
    for (const auto& [round, held] : member.holds) {
      if (member.out || !member.plan.knows(round)) continue;
      const RankSet& set = member.plan.contributing(round);
      if (!set.has(rank) || !set.without(held).empty() || member.begun < round) continue;
      const auto [known, is_new] = member.reported.try_emplace(round, set);
      if (!is_new && known->second == set) continue;
      known->second = set;
      commits.holds(rank, round, set);
    }
    while (const auto commit = commits.commit()) {
      const RankSet audience = commits.audience();
      commits.sent();
      for (Rank of_set = 0; of_set < kMembers; ++of_set) {
        if (audience.has(of_set)) members[of_set].inbox.push_back(*commit);
        if (!commit->set.has(of_set)) continue;
        ASSERT_TRUE(commit->set.without(members[of_set].holds.at(commit->round)).empty());
      }
      ++rounds;
    }
  }
  void overdue() {
    const auto here = members[0].holds.find(commits.round());
    RankSet silent(kMembers);
    for (Rank rank = 0; rank < kMembers; ++rank) {
      if (members[rank].silent) silent.add(rank);
    }
    const auto proposal =
        commits.leave_out(here == members[0].holds.end() ? RankSet(kMembers) : here->second, silent);
    if (!proposal) return;
    for (Rank rank = 0; rank < kMembers; ++rank) {
      if (proposal->set.has(rank)) members[rank].inbox.push_back(*proposal);
    }
  }

  RoundCommits commits{kMembers, 0};
  std::vector<Member> members{kMembers};
  std::vector<Payload> payloads;
  Iteration rounds = 0;
};

TEST(RoundCommits, WhoeverIsInACommittedRoundHoldsAllOfIt) {
  Iteration rounds = 0;
  for (std::uint64_t seed = 0; seed < 300; ++seed) {
    Random random(seed);
    Simulation simulation;
    for (int event = 0; event < 3000; ++event) {
      const auto rank = static_cast<Rank>(random() % Simulation::kMembers);
      switch (random() % 16) {
        case 0:
          if (random() % 20 == 0 && rank != 0) simulation.members[rank].silent ^= true;
          break;
        case 1:
          if (random() % 8 == 0) simulation.overdue();
          break;
        case 2:
        case 3:
        case 4:
          simulation.begin(rank);
          break;
        case 5:
        case 6:
        case 7:
          simulation.deliver_message(rank);
          break;
        default:
          if (!simulation.payloads.empty()) simulation.deliver_payload(random() % simulation.payloads.size());
      }
      if (HasFatalFailure()) return;
    }
    rounds += simulation.rounds;
  }
  EXPECT_GT(rounds, 300u * 10);  // who is out stays out here
}

}  // namespace
}  // namespace stella::testing
