#include "kernels/dense_sgd.hpp"

#include <cmath>
#include <limits>

#include "kernels/half_testing.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

constexpr DenseSgdScales kScales = {.gradient_scale = 0.25f, .take = 0.75f};
constexpr SgdStep kPlain = {
    .lr = 0.1f, .momentum = 0.9f, .weight_decay = 0.01f, .nesterov = false, .maximize = false};

struct Arrays {
  std::vector<float> weights, momentum_buffer;

  explicit Arrays(std::size_t size) {
    Random random(seed());
    weights = normal(random, size);
    momentum_buffer = normal(random, size);
  }
  SgdArrays pointers(bool with_momentum) {
    return {weights.data(), with_momentum ? momentum_buffer.data() : nullptr};
  }
};

// The formulas of kernels/sgd_step.hpp as a plain loop.
void reference(std::span<const float> gradient, const SgdStep& step, const DenseSgdScales& scales,
               Arrays& arrays, bool with_momentum) {
  for (std::size_t i = 0; i < gradient.size(); ++i) {
    const float scaled = gradient[i] * scales.gradient_scale;
    const float signed_gradient = step.maximize ? -scaled : scaled;
    const float decay = step.weight_decay * arrays.weights[i];
    const float g = signed_gradient + decay;
    float direction = g;
    if (with_momentum) {
      const float kept = step.momentum * arrays.momentum_buffer[i];
      const float taken = scales.take * g;
      arrays.momentum_buffer[i] = kept + taken;
      const float ahead = step.momentum * arrays.momentum_buffer[i];
      direction = step.nesterov ? g + ahead : arrays.momentum_buffer[i];
    }
    const float change = step.lr * direction;
    arrays.weights[i] = arrays.weights[i] - change;
  }
}

// Any lengths, and every alignment that an element can have within a vector.
TEST(DenseSgd, EveryLengthAndAlignmentGivesTheBitsOfTheFormulasOnEveryTarget) {
  Random random(seed());
  for (const bool with_momentum : {false, true}) {
    for (const bool nesterov : {false, true}) {
      for (const bool maximize : {false, true}) {
        SgdStep step = kPlain;
        step.nesterov = nesterov;
        step.maximize = maximize;
        for (const std::size_t size : {0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 100, 1000}) {
          const std::size_t shift = size % 5;
          const auto gradient = normal(random, shift + size);
          const auto shifted = std::span(gradient).subspan(shift);
          Arrays expected(size);
          reference(shifted, step, kScales, expected, with_momentum);
          on_every_target([&] {
            Arrays own(size);
            dense_sgd(shifted, step, kScales, own.pointers(with_momentum), nullptr);
            EXPECT_TRUE(same_bits(own.weights, expected.weights)) << size;
            EXPECT_TRUE(same_bits(own.momentum_buffer, expected.momentum_buffer)) << size;
          });
        }
      }
    }
  }
}

template <class Half>
void expect_the_same_from_halves(Random& random, std::size_t size) {
  std::vector<Half> halves;
  std::vector<float> values;
  for (std::size_t i = 0; i < size; ++i) {
    halves.push_back(finite_half<Half>(random));
    values.push_back(value_of(halves.back()));
  }
  on_every_target([&] {
    Arrays own(size), expected(size);
    dense_sgd(std::span<const Half>(halves), kPlain, kScales, own.pointers(true), nullptr);
    dense_sgd(std::span<const float>(values), kPlain, kScales, expected.pointers(true), nullptr);
    EXPECT_TRUE(same_bits(own.weights, expected.weights));
    EXPECT_TRUE(same_bits(own.momentum_buffer, expected.momentum_buffer));
  });
}

TEST(DenseSgd, GradientsOfSixteenBitsAreTheirValues) {
  Random random(seed());
  for (const std::size_t size : {1, 7, 16, 33}) {
    expect_the_same_from_halves<Bf16>(random, size);
    expect_the_same_from_halves<Fp16>(random, size);
  }
}

TEST(DenseSgd, TheNewWeightsGoOutAsTheNearestBf16) {
  Random random(seed());
  for (const std::size_t size : {1, 8, 19}) {
    const auto gradient = normal(random, size);
    on_every_target([&] {
      Arrays own(size);
      std::vector<Bf16> rounded(size + 1, Bf16{0x1234});
      dense_sgd(gradient, kPlain, kScales, own.pointers(true), rounded.data());
      for (std::size_t i = 0; i < size; ++i) EXPECT_EQ(rounded[i].bits, nearest_bf16(own.weights[i]));
      EXPECT_EQ(rounded[size].bits, 0x1234);
    });
  }
}

TEST(DenseSgd, NonFiniteGradientsGiveNonFiniteWeightsThereAndNowhereElse) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), kInfinity, -kInfinity}) {
    std::vector<float> gradient(20, 0.5f);
    gradient[5] = gradient[18] = bad;
    on_every_target([&] {
      Arrays own(20);
      dense_sgd(gradient, kPlain, kScales, own.pointers(true), nullptr);
      for (std::size_t i = 0; i < 20; ++i) EXPECT_EQ(std::isfinite(own.weights[i]), i != 5 && i != 18);
    });
  }
}

}  // namespace
}  // namespace stella
