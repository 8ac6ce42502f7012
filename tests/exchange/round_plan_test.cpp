#include "exchange/round_plan.hpp"

#include <gtest/gtest.h>

#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

RankSet of(std::initializer_list<Rank> ranks) {
  RankSet set(4);
  for (const Rank rank : ranks) set.add(rank);
  return set;
}

RoundMessage commit(Iteration round, RankSet set, RankSet contributing, RankSet listening = of({})) {
  RoundMessage message = round_message(RoundMessageKind::commit, round, 4);
  message.set = set;
  message.contributing = contributing;
  message.listening = listening;
  return message;
}

TEST(RoundPlan, BeginsWithAllMembers) {
  const RoundPlan plan(4, 10);
  EXPECT_FALSE(plan.knows(10));
  EXPECT_FALSE(plan.knows(14));
  for (const Iteration round : {11, 12, 13}) {
    ASSERT_TRUE(plan.knows(round));
    EXPECT_EQ(plan.contributing(round), of({0, 1, 2, 3}));
    EXPECT_EQ(plan.listening(round), of({}));
  }
}

TEST(RoundPlan, WhoIsLeftOutOfARoundIsOutOfAllAfterIt) {
  RoundPlan plan(4, 0);
  plan.commit(commit(1, of({0, 1, 3}), of({0, 1, 3})));
  EXPECT_EQ(plan.committed(), 1u);
  for (const Iteration round : {2, 3, 4}) EXPECT_EQ(plan.contributing(round), of({0, 1, 3}));
  plan.shrink(of({0, 1}));  // not yet for good
  for (const Iteration round : {2, 3, 4}) EXPECT_EQ(plan.contributing(round), of({0, 1}));
}

TEST(RoundPlan, WhatACommitSaysOfLaterRoundsHoldsAfterItsNotice) {
  RoundPlan plan(4, 0);
  plan.commit(commit(1, of({0, 1, 2}), of({0, 1, 2})));
  EXPECT_EQ(plan.commit(commit(2, of({0, 1, 2}), of({0, 1, 2}), of({3}))).newcomers, of({}));
  EXPECT_EQ(plan.listening(4), of({}));
  EXPECT_EQ(plan.listening(5), of({3}));
  plan.commit(commit(3, of({0, 1, 2}), of({0, 1, 2, 3})));
  EXPECT_EQ(plan.contributing(5), of({0, 1, 2}));
  EXPECT_EQ(plan.contributing(6), of({0, 1, 2, 3}));
  const auto changes = plan.commit(commit(4, of({0, 2}), of({0, 2, 3})));
  EXPECT_EQ(changes.left, of({1}));
  EXPECT_EQ(changes.newcomers, of({3}));           // it is told the weights as they are after this round
  EXPECT_EQ(plan.contributing(6), of({0, 2, 3}));  // 1 is out, 3 comes all the same
}

TEST(RoundPlan, ACommitThatDoesNotFollowIsABreach) {
  RoundPlan plan(4, 5);
  EXPECT_NAMES(error_of([&] { plan.commit(commit(5, of({0, 1}), of({0, 1}))); }), "round 5 in place of 6");
  EXPECT_NAMES(error_of([&] { plan.commit(commit(7, of({0, 1}), of({0, 1}))); }), "round 7 in place of 6");
  plan.commit(commit(6, of({0, 1}), of({0, 1})));
  EXPECT_NAMES(error_of([&] { plan.shrink(of({0, 2})); }), "a member that does not contribute to it");
}

TEST(RoundPlan, WhoMissedCommitsKnowsWhatHoldsFromTheNoticeOfTheFirstOneOn) {
  RoundPlan plan(4, 0);
  plan.begin_with(commit(40, of({0, 1}), of({0, 1}), of({2})));
  EXPECT_EQ(plan.committed(), 40u);
  EXPECT_EQ(plan.contributing(43), of({0, 1}));
  EXPECT_EQ(plan.listening(43), of({2}));
  // Of rounds 41 and 42 it knows nothing: 3 comes in round 43 only, as a commit before said.
  plan.begin_with(commit(40, of({0, 1}), of({0, 1, 3}), of({2})));
  for (const Iteration round : {41, 42})
    EXPECT_EQ(plan.commit(commit(round, of({0, 1}), of({0, 1, 3}), of({2}))).left, of({}));
  EXPECT_EQ(plan.contributing(43), of({0, 1, 3}));
  EXPECT_EQ(plan.commit(commit(43, of({0, 3}), of({0, 3}), of({2}))).left, of({1}));
}

}  // namespace
}  // namespace stella::testing
