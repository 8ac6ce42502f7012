#include "kernels/hide.hpp"

#include <cmath>
#include <vector>

#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

struct Arrays {
  std::vector<float> merged, correction, common, own, hidden;

  void hide(float share, std::size_t from = 0) {
    stella::hide(share, merged.data() + from, correction.data() + from, common.data() + from,
                 std::span(own).subspan(from), hidden.data() + from);
  }
  void by_a_plain_loop(float share, std::size_t from = 0) {
    for (std::size_t i = from; i < own.size(); ++i) {
      const float told = merged[i] - correction[i];
      float back = 0;
      if (told * hidden[i] > 0) back = std::copysign(std::min(std::fabs(told), std::fabs(hidden[i])), told);
      const float before = own[i] + (correction[i] + back);
      const float part = share * (before - common[i]);
      own[i] = before - part;
      hidden[i] = (hidden[i] - back) + (before - own[i]);
    }
  }
};

Arrays some_arrays(Random& random, std::size_t size) {
  return {normal(random, size), normal(random, size), normal(random, size), normal(random, size),
          normal(random, size)};
}

// One value of each.
Arrays one(float merged, float correction, float common, float own, float hidden) {
  return {{merged}, {correction}, {common}, {own}, {hidden}};
}

TEST(Hide, EveryLengthAndAlignmentGivesTheBitsOfThePlainLoop) {
  Random random(seed());
  for (const std::size_t size : {0, 1, 3, 8, 9, 16, 17, 100, 1000}) {
    for (const std::size_t shift : {0, 1, 3}) {
      for (const float share : {0.0f, 0.3f, 0.5f, 1.0f}) {
        const Arrays arrays = some_arrays(random, size + shift);
        Arrays expected = arrays;
        expected.by_a_plain_loop(share, shift);
        on_every_target([&] {
          Arrays result = arrays;
          result.hide(share, shift);
          EXPECT_TRUE(same_bits(result.own, expected.own));
          EXPECT_TRUE(same_bits(result.hidden, expected.hidden));
        });
      }
    }
  }
}

// In integers, and by a share that fp32 knows.
TEST(Hide, OwnAndHiddenTogetherChangeByTheCorrection) {
  Random random(seed());
  Arrays arrays = some_arrays(random, 200);
  for (auto* values : {&arrays.merged, &arrays.correction, &arrays.common, &arrays.own, &arrays.hidden}) {
    for (float& value : *values) value = std::round(value * 100) * 4;
  }
  const Arrays before = arrays;
  arrays.hide(0.25f);
  for (std::size_t i = 0; i < 200; ++i) {
    EXPECT_EQ(arrays.own[i] + arrays.hidden[i], before.own[i] + before.hidden[i] + before.correction[i]);
  }
}

// Told 8, of which 2 come to everybody; the weights of all are 10 now.
TEST(Hide, WhatWasHiddenIsToldFirst) {
  Arrays all = one(2, -6, 10, 10, 8);  // the model showed W + 2, of it all that was told was hidden
  all.hide(0);
  EXPECT_EQ(all.own[0], 12);  // as before, and what everybody learned
  EXPECT_EQ(all.hidden[0], 0);
  Arrays part = one(2, -6, 10, 14, 3);  // of 8, 3 were hidden
  part.hide(0);
  EXPECT_EQ(part.own[0], 14 - 6 + 3);
  EXPECT_EQ(part.hidden[0], 0);
  Arrays other = one(2, -6, 10, 20, -3);  // of the other sign: stays
  other.hide(0);
  EXPECT_EQ(other.own[0], 14);
  EXPECT_EQ(other.hidden[0], -3);
}

TEST(Hide, AShareOfWhatTheModelShowsBesideTheWeightsOfAllIsHidden) {
  Arrays half = one(0, 0, 10, 14, 1);
  half.hide(0.5f);
  EXPECT_EQ(half.own[0], 12);
  EXPECT_EQ(half.hidden[0], 3);
  half.hide(1);
  EXPECT_EQ(half.own[0], 10);
  EXPECT_EQ(half.hidden[0], 5);
}

}  // namespace
}  // namespace stella
