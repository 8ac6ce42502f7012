#include "kernels/prefetch.hpp"

#include <algorithm>
#include <map>
#include <vector>

#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

struct Pass {
  std::vector<std::size_t> places;            // in the order in which their turns came
  std::map<std::size_t, std::size_t> loaded;  // block -> the turn at which it was first loaded ahead
  std::size_t loads = 0;
  std::size_t most_loads = 0;  // at one turn
};

Pass pass_over(std::span<const BlockId> blocks) {
  Pass pass;
  for_each_stretch(blocks, [&](std::size_t first, std::size_t end, auto ahead) {
    EXPECT_LT(first, end);
    for (std::size_t k = first; k < end; ++k) {
      const LinesAhead lines = ahead(k);
      if (lines.end > lines.begin) pass.most_loads = std::max(pass.most_loads, lines.end - lines.begin);
      for (std::size_t id = lines.begin; id < lines.end; ++id) {
        ++pass.loads;
        pass.loaded.try_emplace(id, k);
      }
      pass.places.push_back(k);
    }
  });
  return pass;
}

void expect_all_places_in_order(const Pass& pass, std::size_t blocks) {
  ASSERT_EQ(pass.places.size(), blocks);
  for (std::size_t k = 0; k < blocks; ++k) EXPECT_EQ(pass.places[k], k);
}

TEST(Prefetch, EveryPlaceHasItsTurnOnceAndInOrder) {
  Random random(seed());
  expect_all_places_in_order(pass_over({}), 0);
  for (const double density : {0.001, 0.01, 0.1, 0.2, 0.3, 0.5, 0.7, 0.95, 1.0}) {
    for (const std::size_t total : {1, 31, 256, 257, 5000}) {
      const auto blocks = some_blocks(random, total, density);
      expect_all_places_in_order(pass_over(blocks), blocks.size());
    }
  }
}

TEST(Prefetch, WhereFewAreListedTheyAloneAreLoadedLongBeforeTheirTurn) {
  Random random(seed());
  for (const double density : {0.02, 0.25}) {
    const auto blocks = some_blocks(random, 100'000, density);
    const Pass pass = pass_over(blocks);
    EXPECT_LE(pass.loaded.size(), blocks.size());
    EXPECT_LE(pass.loads, blocks.size());
    for (std::size_t k = 32; k < blocks.size(); ++k) {
      ASSERT_TRUE(pass.loaded.contains(blocks[k]));
      EXPECT_EQ(pass.loaded.at(blocks[k]), k - 32);
    }
  }
}

TEST(Prefetch, WhereManyAreListedAllLinesAreLoadedInOrderAndOnce) {
  Random random(seed());
  for (const double density : {0.6, 0.9, 1.0}) {
    const auto blocks = some_blocks(random, 20'000, density);
    const Pass pass = pass_over(blocks);
    EXPECT_EQ(pass.loads, pass.loaded.size());
    std::size_t turn = 0;
    for (const auto& [id, at] : pass.loaded) {
      EXPECT_GE(at, turn) << "out of order: " << id;
      turn = at;
    }
    const std::size_t among = blocks.back() - blocks.front();
    EXPECT_GT(pass.loads, among * 99 / 100) << "but for holes of more than 16";
    EXPECT_LE(pass.loads, among);
    EXPECT_LE(pass.most_loads, 16u);
    EXPECT_EQ(pass.loaded.rbegin()->first, blocks.back());
    for (std::size_t k = 1; k < blocks.size(); ++k) EXPECT_LT(pass.loaded.at(blocks[k]), k) << "too late";
  }
}

// Never what lies behind the last listed block, which may be the end of the arrays.
TEST(Prefetch, NothingIsLoadedFromBehindTheLastBlock) {
  Random random(seed());
  for (const double density : {0.01, 0.1, 0.25, 0.5, 1.0}) {
    for (const std::size_t total : {3, 40, 300, 3000}) {
      const auto blocks = some_blocks(random, total, density);
      const Pass pass = pass_over(blocks);
      for (const auto& [id, turn] : pass.loaded) EXPECT_LE(id, blocks.back()) << "at place " << turn;
    }
  }
}

// A step costs what is listed, however large the holes are, inside of stretches of 256 places or between.
TEST(Prefetch, HolesAreNotLoaded) {
  struct Case {
    BlockId run, hole;
  };
  for (const auto [run, hole] : {Case{200, 300}, Case{512, 1'000'000}}) {
    std::vector<BlockId> blocks;
    for (BlockId id = 0; blocks.size() < 20 * run; id += hole) {
      for (BlockId k = 0; k < run; ++k) blocks.push_back(id++);
    }
    const Pass pass = pass_over(blocks);
    std::size_t in_holes = 0;
    for (const auto& [id, turn] : pass.loaded) in_holes += id % (run + hole) >= run;
    EXPECT_GT(in_holes, 0u) << "the lines before the holes are loaded in order";
    EXPECT_LE(in_holes, 20 * 16u);
    EXPECT_LE(pass.loads, blocks.size() + 20 * 16);
    EXPECT_LE(pass.most_loads, 16u);
  }
}

TEST(Prefetch, AListMayBeDenseHereAndThinThere) {
  std::vector<BlockId> blocks;
  for (BlockId id = 0; id < 1024; ++id) blocks.push_back(id);
  for (BlockId id = 0; id < 1024; ++id) blocks.push_back(2048 + 2 * id);
  for (BlockId id = 0; id < 1024; ++id) blocks.push_back(8192 + 64 * id);
  const Pass pass = pass_over(blocks);
  expect_all_places_in_order(pass, blocks.size());
  EXPECT_TRUE(pass.loaded.contains(1000));
  EXPECT_TRUE(pass.loaded.contains(3001)) << "a line between two listed blocks";
  EXPECT_TRUE(pass.loaded.contains(8192 + 64 * 500));
  EXPECT_FALSE(pass.loaded.contains(8192 + 64 * 500 + 1));
}

}  // namespace
}  // namespace stella
