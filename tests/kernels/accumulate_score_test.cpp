#include "kernels/accumulate_score.hpp"

#include <cmath>
#include <limits>

#include "kernels/block.hpp"
#include "kernels/half_testing.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

// The header's words as a plain loop.
void reference(std::span<const float> gradient, float weight, float* residual, float* scores) {
  for (std::size_t block = 0; block < gradient.size() / kBlock; ++block) {
    float x[kBlock];
    for (std::size_t i = 0; i < kBlock; ++i) {
      float& r = residual[block * kBlock + i];
      const float product = weight * gradient[block * kBlock + i];
      r = r + product;
      x[i] = r * r;
    }
    float t[4];
    for (std::size_t j = 0; j < 4; ++j) t[j] = (x[j] + x[j + 8]) + (x[j + 4] + x[j + 12]);
    scores[block] = (t[0] + t[2]) + (t[1] + t[3]);
  }
}

void expect_reference(std::span<const float> gradient, float weight, const std::vector<float>& residual) {
  const std::size_t blocks = gradient.size() / kBlock;
  auto expected_residual = residual;
  std::vector<float> expected_scores(blocks + 1, -1.0f);
  reference(gradient, weight, expected_residual.data(), expected_scores.data());
  on_every_target([&] {
    auto own_residual = residual;
    std::vector<float> scores(blocks + 1, -1.0f);
    EXPECT_EQ(accumulate_score(gradient, weight, own_residual.data(), scores.data()), blocks);
    EXPECT_TRUE(same_bits(own_residual, expected_residual));
    EXPECT_TRUE(same_bits(scores, expected_scores));
  });
}

TEST(AccumulateScore, EveryTargetGivesTheBitsOfThePlainLoopAtEveryNumberOfBlocks) {
  Random random(seed());
  for (std::size_t blocks : {0, 1, 2, 3, 4, 5, 7, 8, 9, 1001}) {
    expect_reference(normal(random, blocks * kBlock), 0.7f, normal(random, blocks * kBlock));
  }
}

template <class Half>
void expect_the_bits_of_its_values() {
  Random random(seed());
  for (std::size_t blocks : {0, 1, 3, 4, 9}) {
    std::vector<Half> halves(1 + blocks * kBlock);
    for (Half& half : halves) half = finite_half<Half>(random);
    const auto gradient = std::span<const Half>(halves).subspan(1);  // off every alignment but its own
    std::vector<float> values;
    for (const Half half : gradient) values.push_back(value_of(half));
    const auto residual = normal(random, values.size());
    auto expected = residual;
    std::vector<float> expected_scores(blocks);
    reference(values, 0.7f, expected.data(), expected_scores.data());
    on_every_target([&] {
      auto own = residual;
      std::vector<float> scores(blocks);
      EXPECT_EQ(accumulate_score(gradient, 0.7f, own.data(), scores.data()), blocks);
      EXPECT_TRUE(same_bits(own, expected));
      EXPECT_TRUE(same_bits(scores, expected_scores));
    });
  }
}

TEST(AccumulateScore, GradientsOfSixteenBitsAreTheirValues) {
  expect_the_bits_of_its_values<Bf16>();
  expect_the_bits_of_its_values<Fp16>();
}

template <class Half>
void expect_every_pattern_to_be_its_value() {
  std::vector<Half> gradient(kBlock);
  on_every_target([&] {
    for (std::size_t bits = 0; bits < 0x10000; ++bits) {
      gradient[bits % kBlock].bits = static_cast<std::uint16_t>(bits);
      const float expected = value_of(gradient[bits % kBlock]);
      std::vector<float> sum(kBlock);
      float score = -1;
      const bool done = accumulate_score(std::span<const Half>(gradient), 1, sum.data(), &score) == 1;
      ASSERT_EQ(done, std::isfinite(expected)) << bits;
      ASSERT_EQ(sum[bits % kBlock], done ? expected : 0) << bits;
      gradient[bits % kBlock].bits = 0;
    }
  });
}

// An overflow in the backward pass is seen as one, whatever the instruction set.
TEST(AccumulateScore, EveryPatternOfSixteenBitsIsItsValueOrStopsThePass) {
  expect_every_pattern_to_be_its_value<Bf16>();
  expect_every_pattern_to_be_its_value<Fp16>();
}

// Every place of the bad element within a group of blocks that vectors may take together.
TEST(AccumulateScore, StopsInFrontOfTheBlockWhoseGradientIsNotFinite) {
  Random random(seed());
  const auto gradient = normal(random, 9 * kBlock), residual = normal(random, 9 * kBlock);
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (std::size_t at = 0; at < gradient.size(); ++at) {
      auto with = gradient;
      with[at] = bad;
      const std::size_t blocks = at / kBlock;
      auto expected = residual;
      std::vector<float> expected_scores(9, -1.0f);
      reference(std::span(gradient).first(blocks * kBlock), 0.7f, expected.data(), expected_scores.data());
      on_every_target([&] {
        auto own = residual;
        std::vector<float> scores(9, -1.0f);
        ASSERT_EQ(accumulate_score(with, 0.7f, own.data(), scores.data()), blocks) << bad << " at " << at;
        ASSERT_TRUE(same_bits(own, expected)) << at;
        ASSERT_TRUE(same_bits(scores, expected_scores)) << at;
      });
    }
  }
}

TEST(AccumulateScore, GoesOnWhereOnlyTheScoreIsNotFinite) {
  on_every_target([] {
    std::vector<float> gradient(6 * kBlock, 1.0f), residual(gradient.size()), scores(6);
    gradient[20] = 1e25f;
    EXPECT_EQ(accumulate_score(gradient, 1, residual.data(), scores.data()), 6u);
    EXPECT_EQ(residual[20], 1e25f);
    EXPECT_EQ(scores[1], std::numeric_limits<float>::infinity());
    EXPECT_EQ(scores[5], 16);
  });
}

TEST(AccumulateScore, StopsInFrontOfASumThatOverflows) {
  on_every_target([] {
    std::vector<float> gradient(6 * kBlock, 1.0f), residual(gradient.size()), scores(6, -1.0f);
    gradient[40] = residual[40] = std::numeric_limits<float>::max();
    EXPECT_EQ(accumulate_score(gradient, 1, residual.data(), scores.data()), 2u);
    EXPECT_EQ(residual[40], std::numeric_limits<float>::max());
    EXPECT_EQ(residual[31], 1);
    EXPECT_EQ(residual[32], 0);
    EXPECT_EQ(scores[2], -1);
  });
}

TEST(AccumulateScore, ValuesOfVeryDifferentMagnitudeAreSummedInThePinnedOrder) {
  Random random(seed());
  std::uniform_real_distribution<float> exponent(-30, 30);
  std::vector<float> gradient(100 * kBlock);
  for (float& g : gradient) g = std::exp2(exponent(random)) * (random() % 2 ? 1.0f : -1.0f);
  expect_reference(gradient, 3.0f, normal(random, gradient.size()));
}

TEST(AccumulateScore, SignsDoNotCancel) {
  on_every_target([] {
    std::vector<float> gradient(kBlock);
    for (std::size_t i = 0; i < kBlock; ++i) gradient[i] = i % 2 ? 1.0f : -1.0f;
    std::vector<float> residual(kBlock);
    float score = 0;
    accumulate_score(gradient, 1, residual.data(), &score);
    EXPECT_EQ(score, 16);
  });
}

TEST(AccumulateScore, AnOverflowingSumIsInfiniteAndAZeroBlockScoresZero) {
  on_every_target([] {
    std::vector<float> gradient(4 * kBlock, -0.0f);
    gradient[5] = -std::numeric_limits<float>::max();
    gradient[kBlock + 7] = -1e18f;
    gradient[2 * kBlock + 9] = -1e-18f;
    std::vector<float> residual(gradient.size(), 0.0f);
    std::vector<float> scores(4);
    accumulate_score(gradient, 1, residual.data(), scores.data());
    EXPECT_EQ(scores[0], std::numeric_limits<float>::infinity());
    EXPECT_FLOAT_EQ(scores[1], 1e36f);
    EXPECT_FLOAT_EQ(scores[2], 1e-36f);
    EXPECT_EQ(scores[3], 0);
  });
}

}  // namespace
}  // namespace stella
