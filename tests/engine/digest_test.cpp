#include "engine/digest.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "kernels/block.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella::testing {
namespace {

constexpr std::size_t kBlocks = 50;

TEST(Digest, KeptUpToDateForChangedBlocksItIsThatOfAllBlocks) {
  Random random(seed());
  auto weights = normal(random, kBlocks * kBlock);
  std::uint64_t digest = hash_all_blocks(weights);
  for (int step = 0; step < 100; ++step) {
    const auto changed = some_blocks(random, kBlocks, 0.2);
    digest -= hash_blocks(changed, weights);
    for (const BlockId block : changed) weights[block * kBlock + random() % kBlock] += 1;
    digest += hash_blocks(changed, weights);
    ASSERT_EQ(digest, hash_all_blocks(weights)) << "step " << step;
  }
}

TEST(Digest, TheOrderOfTheBlocksDoesNotMatter) {
  Random random(seed());
  const auto weights = normal(random, kBlocks * kBlock);
  auto blocks = some_blocks(random, kBlocks, 0.5);
  const std::uint64_t digest = hash_blocks(blocks, weights);
  std::ranges::shuffle(blocks, random);
  EXPECT_EQ(hash_blocks(blocks, weights), digest);
}

TEST(Digest, EveryBitAndThePlaceOfABlockCount) {
  std::vector<float> weights(2 * kBlock);
  const std::uint64_t zeros = hash_all_blocks(weights);
  weights[0] = -0.0f;
  const std::uint64_t in_the_first = hash_all_blocks(weights);
  std::swap(weights[0], weights[kBlock]);
  EXPECT_NE(in_the_first, zeros);
  EXPECT_NE(hash_all_blocks(weights), in_the_first);
}

TEST(DigestHistory, KnowsTheLatestIterationsAndNoOthers) {
  DigestHistory history;
  for (Iteration t = 1; t <= 100; ++t) history.add({t, t * t});
  EXPECT_EQ(history.newest(), (Digest{100, 10000}));
  for (Iteration t = 101 - DigestHistory::kKept; t <= 100; ++t) EXPECT_EQ(history.at(t), t * t);
  EXPECT_FALSE(history.at(100 - DigestHistory::kKept));
  EXPECT_FALSE(history.at(101));
  EXPECT_FALSE(history.at(~Iteration{0}));
}

TEST(DigestHistory, ForgetsEverythingAtARestart) {
  DigestHistory history;
  for (Iteration t = 1; t <= 10; ++t) history.add({t, 5});
  history.restart({500, 77});
  EXPECT_EQ(history.newest(), (Digest{500, 77}));
  EXPECT_EQ(history.at(500), 77u);
  for (Iteration t = 1; t <= 10; ++t) EXPECT_FALSE(history.at(t));
  history.add({501, 78});
  EXPECT_EQ(history.at(500), 77u);
  EXPECT_EQ(history.newest().value, 78u);
}

}  // namespace
}  // namespace stella::testing
