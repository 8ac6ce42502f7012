#include "compress/largest.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <limits>
#include <numeric>
#include <vector>

#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

std::vector<BlockId> largest(std::span<const float> values, std::size_t count, LargestPlaces finder = {}) {
  std::vector<BlockId> places(values.size());
  places.resize(finder.find(values, count, places.data()));
  return places;
}

std::vector<BlockId> by_sorting(std::span<const float> values, std::size_t count) {
  std::vector<BlockId> places(values.size());
  std::iota(places.begin(), places.end(), BlockId{0});
  std::ranges::stable_sort(places, std::greater<>(), [&](BlockId k) { return std::fabs(values[k]); });
  places.resize(std::min(count, places.size()));
  std::erase_if(places, [&](BlockId k) { return values[k] == 0; });
  std::ranges::sort(places);
  return places;
}

TEST(LargestPlaces, AreThoseThatSortingFinds) {
  Random random(seed());
  for (const std::size_t size : {1, 15, 16, 64, 100, 1000, 1024}) {
    for (const std::size_t count : {std::size_t{1}, size / 64 + 1, size / 3 + 1, size}) {
      for (const float scale : {1e-44f, 1e-20f, 1.0f, 1e30f}) {  // the smallest are denormal
        const auto values = normal(random, size, scale);
        const auto expected = by_sorting(values, count);
        on_every_target([&] { EXPECT_EQ(largest(values, count), expected); });
      }
    }
  }
}

TEST(LargestPlaces, OfEqualValuesAreTheFirst) {
  Random random(seed());
  EXPECT_EQ(largest(std::vector<float>(10, -2.0f), 3), (std::vector<BlockId>{0, 1, 2}));
  for (int round = 0; round < 200; ++round) {
    std::vector<float> values(1 + random() % 300);
    for (float& value : values) value = static_cast<float>(static_cast<int>(random() % 7) - 3);
    const std::size_t count = 1 + random() % values.size();
    EXPECT_EQ(largest(values, count), by_sorting(values, count));
  }
}

TEST(LargestPlaces, ZerosAreNone) {
  EXPECT_TRUE(largest(std::vector<float>{0.0f, -0.0f, 0.0f}, 2).empty());
  EXPECT_EQ(largest(std::vector<float>{0.0f, -1e-45f, -0.0f, 3.0f}, 3), (std::vector<BlockId>{1, 3}));
  EXPECT_TRUE(largest({}, 1).empty());
}

TEST(LargestPlaces, DoNotDependOnTheVectorsBefore) {
  Random random(seed());
  LargestPlaces finder;
  std::vector<BlockId> places(100);
  for (int round = 0; round < 500; ++round) {
    constexpr float kScales[] = {0, 1e-44f, 1e-20f, 1, 1.1f, 1e30f};
    std::vector<float> values = normal(random, 1 + random() % 100, 1);
    for (float& value : values) value *= kScales[random() % std::size(kScales)];
    const std::size_t count = 1 + random() % values.size(), found = finder.find(values, count, places.data());
    EXPECT_EQ(std::vector<BlockId>(places.begin(), places.begin() + found), by_sorting(values, count));
  }
}

TEST(LargestPlaces, SpanEveryMagnitude) {
  constexpr float kMost = std::numeric_limits<float>::max();
  constexpr float kLeast = std::numeric_limits<float>::denorm_min();
  const std::vector<float> values = {kLeast, 1, -kMost, 0, 1e-20f, -kLeast, kMost};
  for (std::size_t count = 1; count <= values.size(); ++count)
    EXPECT_EQ(largest(values, count), by_sorting(values, count));
}

}  // namespace
}  // namespace stella
