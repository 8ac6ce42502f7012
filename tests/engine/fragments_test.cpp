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
  FragmentSchedule schedule(10, 4);
  EXPECT_EQ(schedule.round(), 0u);
  EXPECT_EQ(schedule.next(), (Fragment{0, 4}));
  EXPECT_EQ(schedule.next(), (Fragment{4, 4}));
  EXPECT_EQ(schedule.next(), (Fragment{8, 2}));
  EXPECT_EQ(schedule.next(), (Fragment{0, 4}));
  EXPECT_EQ(schedule.last(), (Fragment{0, 4}));
  EXPECT_EQ(schedule.round(), 4u);
}

TEST(Fragments, AnAnnouncementHoldsAfterItsNoticeWhicheverOrderTheyComeIn) {
  FragmentSchedule early(1000, 10), late(1000, 10);
  early.announce(1, 20);
  early.announce(2, 30);
  late.next();
  late.next();
  late.announce(2, 30);
  late.announce(1, 20);
  late.next();
  for (int i = 0; i < 3; ++i) EXPECT_EQ(early.next().blocks, 10u);
  EXPECT_EQ(FragmentSchedule::kNotice, 3u);
  for (const std::size_t blocks : {20, 30, 30}) {
    EXPECT_EQ(early.next().blocks, blocks);
    EXPECT_EQ(late.next().blocks, blocks);
  }
}

TEST(Fragments, SizesAreCutToOneBlockAtLeastAndHalfOfAllAtMost) {
  EXPECT_EQ(FragmentSchedule(100, 0).next(), (Fragment{0, 1}));
  EXPECT_EQ(FragmentSchedule(100, 1000).next(), (Fragment{0, 50}));
  EXPECT_EQ(FragmentSchedule(1, 1000).next(), (Fragment{0, 1}));
  FragmentSchedule schedule(100, 10);
  schedule.announce(0, 0);
  schedule.announce(1, ~std::size_t{0});
  schedule.next();
  schedule.next();
  EXPECT_EQ(schedule.next().blocks, 1u);
  EXPECT_EQ(schedule.next().blocks, 50u);
}

// Two rounds are under way at a time, each with a part of the weights to itself.
TEST(Fragments, TwoInARowAreDisjointHoweverSizesChangeAndEveryBlockComesUp) {
  for (std::size_t total = 2; total < 40; ++total) {
    for (std::uint64_t seed = 0; seed < 20; ++seed) {
      FragmentSchedule schedule(total, seed % total);
      Fragment before = schedule.next();
      std::set<std::size_t> seen;
      for (Iteration round = 1; round < 200; ++round) {
        schedule.announce(round, (seed * 31 + round * 7) % (total + 3));
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

}  // namespace
}  // namespace stella
