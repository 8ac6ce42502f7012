#include "engine/fragments.hpp"

#include <gtest/gtest.h>

#include <set>
#include <vector>

namespace stella {
namespace {

bool overlap(const Fragment& a, const Fragment& b) {
  return a.first < b.first + b.blocks && b.first < a.first + a.blocks;
}

TEST(Fragments, AdvanceOverTheModelAndBeginAgainAfterAShortOne) {
  FragmentSchedule schedule(10, {4, 1});
  EXPECT_EQ(schedule.round(), 0u);
  EXPECT_EQ(schedule.next(), (Fragment{0, 4}));
  EXPECT_EQ(schedule.next(), (Fragment{4, 4}));
  EXPECT_EQ(schedule.next(), (Fragment{8, 2}));
  EXPECT_EQ(schedule.next(), (Fragment{0, 4}));
  EXPECT_EQ(schedule.last(), (Fragment{0, 4}));
  EXPECT_EQ(schedule.round(), 4u);
}

TEST(Fragments, AnAnnouncementHoldsAfterItsNoticeWhicheverOrderTheyComeIn) {
  FragmentSchedule early(1000, {10, 1}), late(1000, {10, 1});
  early.announce(1, {20, 2});
  early.announce(2, {30, 4});
  late.next();
  late.next();
  late.announce(2, {30, 4});
  late.announce(1, {20, 2});
  late.next();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(early.next().blocks, 10u);
  EXPECT_EQ(FragmentSchedule::kNotice, 3u);
  for (const std::size_t blocks : {20, 30, 30}) {
    EXPECT_EQ(early.next().blocks, blocks);
    EXPECT_EQ(late.next().blocks, blocks);
    EXPECT_EQ(late.size(), (RoundSize{blocks, blocks == 20 ? 2u : 4u}));
  }
}

TEST(Fragments, SizesAreCutToOneBlockAtLeastAndHalfOfAllAtMost) {
  EXPECT_EQ(FragmentSchedule(100, {0, 1}).next(), (Fragment{0, 1}));
  EXPECT_EQ(FragmentSchedule(100, {1000, 1}).next(), (Fragment{0, 50}));
  EXPECT_EQ(FragmentSchedule(1, {1000, 1}).next(), (Fragment{0, 1}));
  FragmentSchedule schedule(100, {10, 1});
  schedule.announce(0, {0, 1});
  schedule.announce(1, {~std::size_t{0}, 1});
  schedule.next();
  schedule.next();
  EXPECT_EQ(schedule.next().blocks, 1u);
  EXPECT_EQ(schedule.next().blocks, 50u);
}

// Two rounds are under way at a time, each with a part of the weights to itself.
TEST(Fragments, TwoInARowAreDisjointHoweverSizesChangeAndEveryBlockComesUp) {
  for (std::size_t total = 2; total < 40; ++total) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      FragmentSchedule schedule(total, {seed % total, 1});
      Fragment before = schedule.next();
      std::set<std::size_t> seen;
      for (Iteration round = 1; round < 200; ++round) {
        schedule.announce(round, {(seed * 31 + round * 7) % (total + 3), 1});
        const Fragment now = schedule.next();
        ASSERT_GT(now.blocks, 0u);
        ASSERT_LE(now.first + now.blocks, total);
        ASSERT_FALSE(overlap(before, now)) << total << " " << seed << " " << round;
        for (std::size_t block = 0; block < now.blocks; ++block) seen.insert(now.first + block);
        before = now;
      }
      EXPECT_EQ(seen.size(), total);
    }
  }
}

TEST(Fragments, AreNoLargerThanWhatFitsAFrame) {
  EXPECT_EQ(FragmentSchedule(1000, {1000, 1}, 30).next(), (Fragment{0, 30}));
  EXPECT_EQ(FragmentSchedule(1000, {1000, 1}, 30).most(), 30u);
  EXPECT_EQ(FragmentSchedule(10, {1000, 1}, 30).most(), 5u);
}

// Who was not there for some rounds knows what the next one is about after kNotice rounds.
TEST(Fragments, WhoFollowsTheRoundsOfOthersComesToTheSameNextOne) {
  for (std::size_t total = 2; total < 30; ++total) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      FragmentSchedule there(total, {seed % total, 1}), here(total, {1, 1});
      const auto size = [&](Iteration round) {
        return RoundSize{(seed * 31 + round * 7) % (total + 3), round % 2 == 0 ? 2u : 8u};
      };
      const Iteration from = 5 + seed;
      for (Iteration round = 1; round < from + 30; ++round) {
        const Fragment fragment = there.next();
        there.announce(round, size(round));
        if (round < from) continue;
        here.follow(round, fragment);
        here.announce(round, size(round));
        if (round <= from + FragmentSchedule::kNotice) continue;
        EXPECT_EQ(here.last(), there.last());
        EXPECT_EQ(here.size(), there.size()) << total << " " << seed << " " << round - from;
        EXPECT_EQ(here.round(), there.round());
      }
      for (int round = 0; round < 10; ++round) ASSERT_EQ(here.next(), there.next());
    }
  }
}

TEST(Fragments, GoOnFromTheirStateAsIfTheyHadNeverStopped) {
  const auto asked = [](Iteration round) { return RoundSize{3 + round % 9, 1u << round % 4}; };
  for (Iteration stop = 0; stop < 30; ++stop) {
    FragmentSchedule there(100, {7, 1}), here(100, {1, 32});
    for (Iteration round = 1; round <= stop; ++round) {
      there.next();
      there.announce(round, asked(round));
    }
    ASSERT_TRUE(here.set_state(there.state()));
    for (Iteration round = stop + 1; round < stop + 20; ++round) {
      ASSERT_EQ(here.next(), there.next());
      ASSERT_EQ(here.size(), there.size());
      ASSERT_EQ(here.round(), round);
      here.announce(round, asked(round));
      there.announce(round, asked(round));
    }
  }
}

TEST(Fragments, WhatIsNoStateOfAScheduleChangesNothing) {
  FragmentSchedule schedule(100, {7, 1});
  schedule.next();
  const auto before = schedule.state();
  for (const std::vector<std::uint64_t>& state : std::vector<std::vector<std::uint64_t>>{
           {},
           {1, 0, 7, 7},
           {1, 0, 7, 7, 1, 2},
           {1, 95, 7, 7, 1},          // beyond the model
           {1, 0, ~0ull, 7, 1},       //
           {1, 0, 7, 51, 1},          // more than half
           {1, 0, 7, 7, 3},           // bits
           {1, 0, 7, 7, 1, 1, 7, 1},  // announced for a round that is over
           {1, 0, 7, 7, 1, 5, 7, 1},  // or one too far ahead
           {1, 0, 7, 7, 1, 2, 0, 1}}) {
    EXPECT_FALSE(schedule.set_state(state));
    EXPECT_EQ(schedule.state(), before);
  }
}

}  // namespace
}  // namespace stella
