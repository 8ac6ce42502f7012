#include "kernels/collect.hpp"

#include <bit>
#include <limits>

#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

std::uint32_t bits(float score) { return std::bit_cast<std::uint32_t>(score) & kScoreBits; }

std::vector<BlockId> collected(std::span<const float> scores, std::uint32_t least) {
  std::vector<BlockId> ids(scores.size());
  ids.resize(collect_at_least(scores, least, ids.data()));
  return ids;
}

std::vector<BlockId> by_a_plain_loop(std::span<const float> scores, std::uint32_t least) {
  std::vector<BlockId> ids;
  for (std::size_t block = 0; block < scores.size(); ++block) {
    if (bits(scores[block]) >= least) ids.push_back(static_cast<BlockId>(block));
  }
  return ids;
}

TEST(CollectAtLeast, EveryLengthAndAlignmentGivesWhatThePlainLoopGives) {
  Random random(seed());
  for (std::size_t size : {0, 1, 3, 4, 7, 8, 9, 16, 17, 33, 1000}) {
    for (std::size_t shift : {0, 1, 3}) {
      const auto all = normal(random, size + shift);
      const auto scores = std::span(all).subspan(shift);
      for (const float least : {1e-30f, 0.1f, 1.0f, 2.5f, 100.0f}) {
        const auto expected = by_a_plain_loop(scores, bits(least));
        on_every_target([&] {
          EXPECT_EQ(collected(scores, bits(least)), expected);
          EXPECT_EQ(count_at_least(scores, bits(least)), expected.size());
        });
      }
    }
  }
}

TEST(CollectAtLeast, ScoresOfEveryMagnitudeAreComparedByTheirBits) {
  constexpr float kTiny = std::numeric_limits<float>::denorm_min();
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  const std::vector<float> scores = {0.0f,
                                     -0.0f,
                                     kTiny,
                                     2 * kTiny,
                                     1.0f,
                                     std::nextafter(1.0f, 2.0f),
                                     std::numeric_limits<float>::max(),
                                     kInfinity,
                                     std::numeric_limits<float>::quiet_NaN()};
  on_every_target([&] {
    for (const std::uint32_t least : {0u, 1u, 2u, bits(1.0f), bits(kInfinity), kScoreBits})
      EXPECT_EQ(count_at_least(scores, least), collected(scores, least).size());
    EXPECT_EQ(collected(scores, 0).size(), scores.size());
    EXPECT_EQ(collected(scores, 1), (std::vector<BlockId>{2, 3, 4, 5, 6, 7, 8}));
    EXPECT_EQ(collected(scores, 2), (std::vector<BlockId>{3, 4, 5, 6, 7, 8}));
    EXPECT_EQ(collected(scores, bits(1.0f)), (std::vector<BlockId>{4, 5, 6, 7, 8}));
    EXPECT_EQ(collected(scores, bits(1.0f) + 1), (std::vector<BlockId>{5, 6, 7, 8}));
    EXPECT_EQ(collected(scores, bits(kInfinity)), (std::vector<BlockId>{7, 8}));
    EXPECT_EQ(collected(scores, kScoreBits).size(), 0u);
  });
}

}  // namespace
}  // namespace stella
