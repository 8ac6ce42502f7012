#include "base/rank_set.hpp"

#include <gtest/gtest.h>

namespace stella {
namespace {

RankSet of(std::initializer_list<Rank> ranks) {
  RankSet set(10);
  for (const Rank rank : ranks) set.add(rank);
  return set;
}

TEST(RankSet, HoldsRanks) {
  RankSet set(10);
  EXPECT_TRUE(set.empty());
  EXPECT_EQ(set.first(), std::nullopt);
  set.add(7);
  set.add(3);
  set.add(3);
  EXPECT_EQ(set, of({3, 7}));
  EXPECT_EQ(set.size(), 2u);
  EXPECT_EQ(set.first(), 3u);
  set.remove(3);
  EXPECT_FALSE(set.has(3));
  EXPECT_EQ(RankSet::all(10).size(), 10u);
}

TEST(RankSet, IsComparedWithOthers) {
  EXPECT_EQ(of({1, 2, 3}).both(of({2, 3, 4})), of({2, 3}));
  EXPECT_EQ(of({1, 2, 3}).without(of({2, 3, 4})), of({1}));
  EXPECT_NE(RankSet(3), RankSet(4));
}

}  // namespace
}  // namespace stella
