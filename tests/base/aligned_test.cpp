#include "base/aligned.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

namespace stella {
namespace {

// Around a cache line, and around where huge pages begin.
constexpr std::size_t kSizes[] = {
    0, 1, 15, 16, 17, 1000, kHugePage / 4 - 1, kHugePage / 4, kHugePage / 4 + 1, kHugePage + 12345};

TEST(AlignedArray, IsZeroStartsOnACacheLineAndHoldsWhatIsWrittenToItsEnds) {
  for (const std::size_t size : kSizes) {
    AlignedArray<float> values(size);
    EXPECT_EQ(reinterpret_cast<std::uintptr_t>(values.data()) % kCacheLine, 0u);
    ASSERT_EQ(values.size(), size);
    for (const float value : values.span()) ASSERT_EQ(value, 0);
    std::iota(values.span().begin(), values.span().end(), 1.0f);
    for (std::size_t i = 0; i < size; ++i) ASSERT_EQ(values[i], static_cast<float>(i + 1));
  }
}

TEST(AlignedArray, MovesAndSwapsWithoutACopy) {
  for (const std::size_t size : {std::size_t{16}, kHugePage}) {
    AlignedArray<float> a(size), b(2 * size);
    const float* of_a = a.data();
    const float* of_b = b.data();
    a[size - 1] = 7;
    std::swap(a, b);
    EXPECT_EQ(a.data(), of_b);
    EXPECT_EQ(b.data(), of_a);
    EXPECT_EQ(b[size - 1], 7);
    const AlignedArray<float> c = std::move(b);
    EXPECT_EQ(c.data(), of_a);
    EXPECT_EQ(c.size(), size);
  }
}

// Several arrays that are passed over side by side do not all begin at the same place of a page.
TEST(AlignedArray, LargeOnesStartAtDifferentPlacesOfTheirPages) {
  std::vector<AlignedArray<float>> arrays;
  std::vector<std::uintptr_t> places;
  for (int i = 0; i < 8; ++i) {
    arrays.emplace_back(kHugePage / 4 + static_cast<std::size_t>(i));
    places.push_back(reinterpret_cast<std::uintptr_t>(arrays.back().data()) % kHugePage);
  }
  std::sort(places.begin(), places.end());
  EXPECT_GT(std::unique(places.begin(), places.end()) - places.begin(), 3);
}

}  // namespace
}  // namespace stella
