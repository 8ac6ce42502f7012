#include "kernels/reduce.hpp"

#include <algorithm>
#include <numeric>

#include "kernels/block.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

TEST(Add, EveryLengthGivesTheBitsOfThePlainLoop) {
  Random random(seed());
  for (std::size_t size : {0, 1, 3, 8, 9, 16, 17, 100}) {
    const auto values = normal(random, size);
    const auto sum = normal(random, size + 1);
    auto expected = sum;
    for (std::size_t i = 0; i < size; ++i) expected[i] += values[i];
    on_every_target([&] {
      auto own = sum;
      add(values, own.data());
      EXPECT_TRUE(same_bits(own, expected));
    });
  }
}

TEST(Subtract, EveryLengthGivesTheBitsOfThePlainLoop) {
  Random random(seed());
  for (std::size_t size : {0, 1, 3, 8, 9, 16, 17, 100}) {
    const auto values = normal(random, size);
    const auto from = normal(random, size + 1);
    auto expected = from;
    for (std::size_t i = 0; i < size; ++i) expected[i] -= values[i];
    on_every_target([&] {
      auto own = from;
      subtract(values, own.data());
      EXPECT_TRUE(same_bits(own, expected));
    });
  }
}

TEST(ScatterAdd, EachBlockIsAddedAtItsPositionAndTheOthersStay) {
  Random random(seed());
  for (std::size_t blocks : {0, 1, 2, 50}) {
    std::vector<std::uint32_t> positions(3 * blocks);
    std::iota(positions.begin(), positions.end(), 0u);
    std::shuffle(positions.begin(), positions.end(), random);
    positions.resize(blocks);
    const auto values = normal(random, blocks * kBlock);
    const auto sum = normal(random, 3 * blocks * kBlock);
    auto expected = sum;
    for (std::size_t i = 0; i < values.size(); ++i) {
      expected[positions[i / kBlock] * kBlock + i % kBlock] += values[i];
    }
    on_every_target([&] {
      auto own = sum;
      scatter_add(values, positions, own.data());
      EXPECT_TRUE(same_bits(own, expected));
    });
  }
}

TEST(ScatterAdd, MinusZeroLeavesBothZerosAsTheyAre) {
  on_every_target([] {
    std::vector<float> values(kBlock, -0.0f);
    values[1] = 0.0f;
    std::vector<float> sum(kBlock, -0.0f);
    const std::uint32_t position = 0;
    scatter_add(values, {&position, 1}, sum.data());
    EXPECT_TRUE(same_bits(sum, values));
  });
}

TEST(Divide, IsTrueDivisionAtEveryLength) {
  Random random(seed());
  for (std::size_t size : {0, 1, 5, 8, 17, 1000}) {
    const auto values = normal(random, size);
    for (float divisor : {3.0f, 7.0f, 96.0f, 0.1f}) {
      auto expected = values;
      for (float& value : expected) value /= divisor;
      on_every_target([&] {
        auto own = values;
        divide(own, divisor);
        EXPECT_TRUE(same_bits(own, expected));
      });
    }
  }
}

}  // namespace
}  // namespace stella
