#include "compress/listed_values.hpp"

#include <gtest/gtest.h>

#include <vector>

#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

ListedValues listed(const std::vector<std::uint32_t>& places, const std::vector<float>& values) {
  return {places, values};
}

TEST(ListedValues, SumsListEveryPlaceOnceInOrder) {
  const ListedValues lists[] = {listed({0, 5, 9000}, {1, 2, 3}), listed({}, {}),
                                listed({5, 6, 4096}, {10, 20, 30})};
  const ListedValues sum = sum_of(lists);
  EXPECT_EQ(sum.places, (std::vector<std::uint32_t>{0, 5, 6, 4096, 9000}));
  EXPECT_EQ(sum.values, (std::vector<float>{1, 12, 20, 30, 3}));
  EXPECT_TRUE(sum_of({}).places.empty());
}

TEST(ListedValues, SumsKeepAPlaceWhoseValuesAddUpToNothing) {
  const ListedValues lists[] = {listed({7}, {2}), listed({7}, {-2})};
  EXPECT_EQ(sum_of(lists).places, (std::vector<std::uint32_t>{7}));
  EXPECT_EQ(sum_of(lists).values, (std::vector<float>{0}));
}

// 1e8 + 1 is 1e8 in fp32.
TEST(ListedValues, SumsAreInTheOrderOfTheLists) {
  const ListedValues lists[] = {listed({3}, {1e8f}), listed({3}, {1}), listed({3}, {-1e8f})};
  EXPECT_EQ(sum_of(lists).values, (std::vector<float>{0}));
  const ListedValues otherwise[] = {lists[0], lists[2], lists[1]};
  EXPECT_EQ(sum_of(otherwise).values, (std::vector<float>{1}));
}

TEST(ListedValues, SumsAreThoseOfWholeVectors) {
  Random random(seed());
  constexpr std::size_t kSize = 20000;
  for (int round = 0; round < 20; ++round) {
    std::vector<ListedValues> lists(1 + random() % 5);
    std::vector<float> whole(kSize);
    std::vector<bool> listed(kSize);
    for (ListedValues& list : lists) {
      for (std::uint32_t place = random() % 100; place < kSize; place += 1 + random() % 200) {
        const float value = normal(random, 1).front();
        list.add(place, value);
        whole[place] += value;
        listed[place] = true;
      }
    }
    ListedValues expected;
    for (std::uint32_t place = 0; place < kSize; ++place) {
      if (listed[place]) expected.add(place, whole[place]);
    }
    const ListedValues sum = sum_of(lists);
    EXPECT_EQ(sum.places, expected.places);
    EXPECT_TRUE(same_bits(sum.values, expected.values));
  }
}

TEST(ListedValues, APartIsVisitedByPlacesFromItsBegin) {
  const ListedValues list = listed({3, 10, 11, 20}, {1, 2, 3, 4});
  ListedValues part;
  list.for_each_in(10, 10,
                   [&](std::size_t at, float value) { part.add(static_cast<std::uint32_t>(at), value); });
  EXPECT_EQ(part.places, (std::vector<std::uint32_t>{0, 1}));
  EXPECT_EQ(part.values, (std::vector<float>{2, 3}));
  list.for_each_in(12, 8, [](std::size_t, float) { FAIL(); });
}

}  // namespace
}  // namespace stella
