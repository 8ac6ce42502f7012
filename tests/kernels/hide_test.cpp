#include "kernels/hide.hpp"

#include <cmath>
#include <vector>

#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

struct Arrays {
  std::vector<float> common, own, hidden;

  void hide(Shares shares, std::size_t from = 0) {
    stella::hide(shares, common.data() + from, std::span(own).subspan(from), hidden.data() + from);
  }
  void by_a_plain_loop(Shares shares, std::size_t from = 0) {
    for (std::size_t i = from; i < own.size(); ++i) {
      const float before = own[i];
      const float part = shares.hidden * (before - common[i]);
      const float after = before - part;
      const float aside = hidden[i] + (before - after);
      const float back = shares.shown * aside;
      own[i] = after + back;
      hidden[i] = aside - back;
    }
  }
};

TEST(Hide, EveryLengthAndAlignmentGivesTheBitsOfThePlainLoop) {
  Random random(seed());
  for (const std::size_t size : {0, 1, 3, 8, 9, 16, 17, 100, 1000}) {
    for (const std::size_t shift : {0, 1, 3}) {
      for (const Shares shares : {Shares{0, 0}, {0.3f, 0.7f}, {0.5f, 0}, {1, 0.1f}, {0, 1}}) {
        const Arrays arrays{normal(random, size + shift), normal(random, size + shift),
                            normal(random, size + shift)};
        Arrays expected = arrays;
        expected.by_a_plain_loop(shares, shift);
        on_every_target([&] {
          Arrays result = arrays;
          result.hide(shares, shift);
          EXPECT_TRUE(same_bits(result.own, expected.own));
          EXPECT_TRUE(same_bits(result.hidden, expected.hidden));
        });
      }
    }
  }
}

// In integers, and by a share that fp32 knows.
TEST(Hide, OwnAndHiddenTogetherStayAsTheyAre) {
  Random random(seed());
  Arrays arrays{normal(random, 200), normal(random, 200), normal(random, 200)};
  for (auto* values : {&arrays.common, &arrays.own, &arrays.hidden}) {
    for (float& value : *values) value = std::round(value * 100) * 4;
  }
  const Arrays before = arrays;
  arrays.hide({0.25f, 0.5f});
  for (std::size_t i = 0; i < 200; ++i)
    EXPECT_EQ(arrays.own[i] + arrays.hidden[i], before.own[i] + before.hidden[i]);
}

TEST(Hide, AShareOfWhatTheModelShowsBesideTheWeightsOfAllIsHidden) {
  Arrays half{{10}, {14}, {1}};
  half.hide({0.5f, 0});
  EXPECT_EQ(half.own[0], 12);
  EXPECT_EQ(half.hidden[0], 3);
  half.hide({1, 0});
  EXPECT_EQ(half.own[0], 10);
  EXPECT_EQ(half.hidden[0], 5);
}

TEST(Hide, AShareOfWhatIsHiddenIsShownAgain) {
  Arrays some{{10}, {14}, {6}};
  some.hide({0.5f, 0.25f});  // 12 and 8, then
  EXPECT_EQ(some.own[0], 14);
  EXPECT_EQ(some.hidden[0], 6);
}

}  // namespace
}  // namespace stella
