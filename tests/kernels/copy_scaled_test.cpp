#include "kernels/copy_scaled.hpp"

#include <limits>

#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

TEST(CopyScaled, EveryLengthAndAlignmentGivesTheProductsAndTouchesNothingElse) {
  Random random(seed());
  for (std::size_t size : {0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 33, 65, 1000}) {
    for (std::size_t offset : {0, 1, 3}) {
      const auto from = normal(random, size + offset);
      std::vector<float> expected(size + offset + 1, 7.0f);
      for (std::size_t i = 0; i < size; ++i) expected[offset + i] = from[offset + i] * 0.3f;
      on_every_target([&] {
        std::vector<float> to(size + offset + 1, 7.0f);
        EXPECT_TRUE(copy_scaled(std::span(from).subspan(offset), 0.3f, to.data() + offset));
        EXPECT_TRUE(same_bits(to, expected));
      });
    }
  }
}

TEST(CopyScaled, ScalesInPlace) {
  on_every_target([] {
    std::vector<float> values = {1, 2, 3, 4, 5, 6, 7, 8, 9};
    EXPECT_TRUE(copy_scaled(values, 2, values.data()));
    EXPECT_EQ(values, (std::vector<float>{2, 4, 6, 8, 10, 12, 14, 16, 18}));
  });
}

TEST(CopyScaled, ANonFiniteResultIsReportedWhereverItStands) {
  on_every_target([] {
    for (std::size_t size : {1, 8, 21}) {
      for (std::size_t place = 0; place < size; ++place) {
        for (float bad : {kInf, -kInf, kNan, -kNan, std::numeric_limits<float>::max()}) {
          std::vector<float> values(size, 1.0f);
          std::vector<float> to(size);
          values[place] = bad;
          EXPECT_FALSE(copy_scaled(values, 2, to.data())) << bad << " at " << place << " of " << size;
        }
      }
    }
  });
}

TEST(CopyScaled, TheLargestAndSmallestNumbersAreFinite) {
  on_every_target([] {
    const std::vector<float> values = {std::numeric_limits<float>::max(),
                                       std::numeric_limits<float>::lowest(),
                                       std::numeric_limits<float>::denorm_min(), -0.0f};
    std::vector<float> to(values.size());
    EXPECT_TRUE(copy_scaled(values, 1, to.data()));
    EXPECT_TRUE(same_bits(to, values));
  });
}

}  // namespace
}  // namespace stella
