#include "compress/merge.hpp"

#include <map>

#include "compress/gradients.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

using namespace testing;

SparseGradient sparse(std::vector<BlockId> blocks, std::span<const float> values) {
  SparseGradient gradient{std::move(blocks), AlignedArray<float>(values.size())};
  std::copy(values.begin(), values.end(), gradient.values.data());
  return gradient;
}

std::vector<SparseGradient> random_contributions(Random& random, std::size_t members, std::size_t total,
                                                 double density) {
  std::vector<SparseGradient> contributions;
  for (std::size_t j = 0; j < members; ++j) {
    auto blocks = some_blocks(random, total, density);
    const auto values = normal(random, blocks.size() * kBlock);
    contributions.push_back(sparse(std::move(blocks), values));
  }
  return contributions;
}

// Block by block in member order, starting from the first contributor's values.
void expect_plain_sum(std::span<const SparseGradient> contributions, double samples) {
  std::map<BlockId, std::vector<float>> sums;
  for (const auto& contribution : contributions) {
    for (std::size_t k = 0; k < contribution.blocks.size(); ++k) {
      const auto values = contribution.values.span().subspan(k * kBlock, kBlock);
      const auto [place, first] = sums.try_emplace(contribution.blocks[k], values.begin(), values.end());
      for (std::size_t i = 0; !first && i < kBlock; ++i) place->second[i] += values[i];
    }
  }
  std::vector<BlockId> blocks;
  std::vector<float> expected;
  for (auto& [block, sum] : sums) {
    blocks.push_back(block);
    for (const float value : sum) expected.push_back(value / static_cast<float>(samples));
  }
  on_every_target([&] {
    const auto merged = merge(contributions, samples);
    EXPECT_EQ(merged.blocks, blocks);
    EXPECT_TRUE(same_bits(merged.values.span(), expected));
  });
}

TEST(Merge, IsTheSumInMemberOrderOverTheSamplesBitForBit) {
  Random random(seed());
  for (std::size_t members = 1; members <= 9; ++members) {
    for (std::size_t total : {0, 1, 7, 300}) {
      for (double density : {0.0, 0.05, 0.5, 1.0}) {
        expect_plain_sum(random_contributions(random, members, total, density), 37);
      }
    }
  }
}

TEST(Merge, TheOrderOfTheMembersIsKept) {
  const std::vector<float> large(kBlock, 1e8f), minus(kBlock, -1e8f), small(kBlock, 1.0f);
  std::vector<SparseGradient> contributions;
  contributions.push_back(sparse({0}, large));
  contributions.push_back(sparse({0}, small));
  contributions.push_back(sparse({0}, minus));
  EXPECT_EQ(merge(contributions, 1).values[0], 0);  // (1e8 + 1) - 1e8
  std::swap(contributions[1], contributions[2]);
  EXPECT_EQ(merge(contributions, 1).values[0], 1);  // (1e8 - 1e8) + 1
}

TEST(Merge, AMinusZeroStaysOne) {
  const std::vector<float> zeros(kBlock, -0.0f);
  std::vector<SparseGradient> contributions;
  contributions.push_back(sparse({4}, zeros));
  contributions.push_back(sparse({5}, zeros));
  expect_plain_sum(contributions, 2);
}

TEST(Merge, AMemberThatSentNothingChangesNothing) {
  Random random(seed());
  auto contributions = random_contributions(random, 3, 50, 0.5);
  contributions.insert(contributions.begin() + 1, SparseGradient());
  expect_plain_sum(contributions, 3);
}

TEST(Merge, NobodySentAnything) {
  EXPECT_TRUE(merge({}, 0).blocks.empty());
  EXPECT_TRUE(merge(std::vector<SparseGradient>(3), 0).blocks.empty());
}

TEST(Merge, BlocksWithoutSamplesAreRefused) {
  std::vector<SparseGradient> contributions;
  contributions.push_back(sparse({0}, std::vector<float>(kBlock, 1.0f)));
  for (double samples : {0.0, -1.0, std::nan("")}) {
    EXPECT_THROW(merge(contributions, samples), Error) << samples;
  }
}

}  // namespace
}  // namespace stella
