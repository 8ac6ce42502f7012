#include "compress/union.hpp"

#include <limits>
#include <set>

#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

void expect_union(const std::vector<std::vector<BlockId>>& lists) {
  std::set<BlockId> expected;
  for (const auto& list : lists) expected.insert(list.begin(), list.end());
  const std::vector<std::span<const BlockId>> spans(lists.begin(), lists.end());
  const auto all = union_of(spans);
  EXPECT_EQ(all.blocks, std::vector<BlockId>(expected.begin(), expected.end()));
  ASSERT_EQ(all.positions.size(), lists.size());
  for (std::size_t j = 0; j < lists.size(); ++j) {
    ASSERT_EQ(all.positions[j].size(), lists[j].size());
    for (std::size_t k = 0; k < lists[j].size(); ++k) EXPECT_EQ(all.blocks[all.positions[j][k]], lists[j][k]);
  }
}

TEST(Union, HoldsEveryBlockOnceAndKnowsWhereEachListWent) {
  Random random(seed());
  for (std::size_t members = 0; members <= 9; ++members) {
    for (std::size_t total : {0, 1, 10, 1000}) {
      std::vector<std::vector<BlockId>> lists;
      for (std::size_t j = 0; j < members; ++j) {
        lists.push_back(some_blocks(random, total, std::generate_canonical<double, 30>(random)));
      }
      expect_union(lists);
    }
  }
}

TEST(Union, ListsMayBeEmptyEqualDisjointOrNested) {
  expect_union({{}, {}, {}});
  expect_union({{1, 2}, {}, {1, 2}});
  expect_union({{1, 3, 5}, {0, 2, 4, 6}});
  expect_union({{0, 1, 2, 3, 4}, {2}, {4}});
  expect_union({{0, std::numeric_limits<BlockId>::max()}, {std::numeric_limits<BlockId>::max()}});
}

}  // namespace
}  // namespace stella
