#include "kernels/dense_adam.hpp"

#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/block.hpp"
#include "kernels/half_testing.hpp"
#include "kernels/kernel_testing.hpp"
#include "kernels/sparse_adam.hpp"

namespace stella {
namespace {

using namespace testing;

constexpr AdamStep kAdamW = {.shrink = 0.999f,
                             .weight_decay = 0,
                             .beta1 = 0.9f,
                             .one_minus_beta1 = 0.1f,
                             .beta2 = 0.999f,
                             .one_minus_beta2 = 0.001f,
                             .eps = 1e-8f,
                             .maximize = false};
constexpr AdamStep kAdam = {.shrink = 1,
                            .weight_decay = 0.1f,
                            .beta1 = 0.3f,
                            .one_minus_beta1 = 0.7f,
                            .beta2 = 0.5f,
                            .one_minus_beta2 = 0.5f,
                            .eps = 1e-3f,
                            .maximize = true};

struct Arrays {
  std::vector<float> weights, exp_avg, exp_avg_sq, max_exp_avg_sq;

  explicit Arrays(std::size_t size, std::uint64_t from = seed()) {
    Random random(from);
    weights = normal(random, size);
    exp_avg = normal(random, size);
    exp_avg_sq = normal(random, size);
    max_exp_avg_sq = normal(random, size);
    for (auto* squares : {&exp_avg_sq, &max_exp_avg_sq}) {
      for (float& value : *squares) value *= value;
    }
  }
  AdamArrays pointers(bool amsgrad, std::size_t at = 0) {
    return {weights.data() + at, exp_avg.data() + at, exp_avg_sq.data() + at,
            amsgrad ? max_exp_avg_sq.data() + at : nullptr};
  }
  friend ::testing::AssertionResult same(const Arrays& a, const Arrays& b) {
    for (const auto array :
         {&Arrays::weights, &Arrays::exp_avg, &Arrays::exp_avg_sq, &Arrays::max_exp_avg_sq}) {
      if (auto result = same_bits(a.*array, b.*array); !result) return result;
    }
    return ::testing::AssertionSuccess();
  }
};

// The plain loop of tests/kernels/sparse_adam_test.cpp is what sparse_adam is held to; on every element of
// whole blocks it is the reference here, for the elements from `at` on.
void reference(std::span<const float> gradient, const AdamStep& step, const DenseCorrections& corrections,
               Arrays& arrays, bool amsgrad, std::size_t at) {
  const std::size_t blocks = (gradient.size() + kBlock - 1) / kBlock;
  Arrays padded(blocks * kBlock);
  std::vector<float> scaled(blocks * kBlock);
  for (std::size_t i = 0; i < gradient.size(); ++i) scaled[i] = gradient[i] * corrections.gradient_scale;
  for (const auto array :
       {&Arrays::weights, &Arrays::exp_avg, &Arrays::exp_avg_sq, &Arrays::max_exp_avg_sq}) {
    std::copy_n((arrays.*array).data() + at, gradient.size(), (padded.*array).begin());
  }
  std::vector<BlockId> all(blocks);
  std::iota(all.begin(), all.end(), BlockId{0});
  std::vector<std::uint32_t> steps(blocks);
  const float one = 1;
  sparse_adam(all, scaled.data(), step,
              {steps.data(), {&one, 1}, {&corrections.root_of_bias2, 1}, corrections.step_size},
              padded.pointers(amsgrad));
  for (const auto array :
       {&Arrays::weights, &Arrays::exp_avg, &Arrays::exp_avg_sq, &Arrays::max_exp_avg_sq}) {
    std::copy_n((padded.*array).begin(), gradient.size(), (arrays.*array).data() + at);
  }
}

constexpr DenseCorrections kCorrections = {
    .step_size = 0.01f, .root_of_bias2 = 0.5f, .gradient_scale = 0.25f};

TEST(DenseAdam, EveryLengthAndAlignmentGivesTheBitsOfTheSparseStepOnEveryTarget) {
  Random random(seed());
  for (const AdamStep& step : {kAdamW, kAdam}) {
    for (const bool amsgrad : {false, true}) {
      for (const std::size_t size : {0, 1, 3, 4, 7, 8, 9, 15, 16, 17, 31, 100, 1000}) {
        for (const std::size_t at : {0, 1, 3}) {
          const auto all = normal(random, at + size);
          const auto gradient = std::span(all).subspan(at);
          Arrays expected(at + size);
          reference(gradient, step, kCorrections, expected, amsgrad, at);
          on_every_target([&] {
            Arrays own(at + size);
            dense_adam(gradient, step, kCorrections, own.pointers(amsgrad, at), nullptr);
            EXPECT_TRUE(same(own, expected)) << size << " at " << at;
          });
        }
      }
    }
  }
}

TEST(DenseAdam, GradientsOfSixteenBitsAreTheirValues) {
  Random random(seed());
  for (const std::size_t size : {1, 7, 16, 33}) {
    std::vector<Bf16> bf16;
    std::vector<Fp16> fp16;
    std::vector<float> of_bf16, of_fp16;
    for (std::size_t i = 0; i < size; ++i) {
      bf16.push_back(finite_half<Bf16>(random));
      of_bf16.push_back(value_of(bf16.back()));
      fp16.push_back(finite_half<Fp16>(random));
      of_fp16.push_back(value_of(fp16.back()));
    }
    on_every_target([&] {
      Arrays own(size), expected(size);
      dense_adam(std::span<const Bf16>(bf16), kAdamW, kCorrections, own.pointers(false), nullptr);
      dense_adam(of_bf16, kAdamW, kCorrections, expected.pointers(false), nullptr);
      EXPECT_TRUE(same(own, expected));
      dense_adam(std::span<const Fp16>(fp16), kAdamW, kCorrections, own.pointers(false), nullptr);
      dense_adam(of_fp16, kAdamW, kCorrections, expected.pointers(false), nullptr);
      EXPECT_TRUE(same(own, expected));
    });
  }
}

TEST(DenseAdam, TheNewWeightsGoOutAsTheNearestBf16) {
  Random random(seed());
  for (const std::size_t size : {1, 8, 19}) {
    const auto gradient = normal(random, size);
    on_every_target([&] {
      Arrays own(size);
      std::vector<Bf16> rounded(size + 1, Bf16{0x1234});
      dense_adam(gradient, kAdamW, kCorrections, own.pointers(false), rounded.data());
      for (std::size_t i = 0; i < size; ++i) EXPECT_EQ(rounded[i].bits, nearest_bf16(own.weights[i]));
      EXPECT_EQ(rounded[size].bits, 0x1234);
    });
  }
}

TEST(DenseAdam, NonFiniteGradientsGiveNonFiniteWeightsThereAndNowhereElse) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  for (const float bad : {std::nanf(""), kInfinity, -kInfinity}) {
    std::vector<float> gradient(20, 0.5f);
    gradient[5] = gradient[18] = bad;
    on_every_target([&] {
      Arrays own(20);
      std::vector<Bf16> rounded(20);
      dense_adam(gradient, kAdamW, kCorrections, own.pointers(false), rounded.data());
      for (std::size_t i = 0; i < 20; ++i) {
        const bool hit = i == 5 || i == 18;
        EXPECT_EQ(std::isnan(own.weights[i]), hit);
        EXPECT_EQ(std::isnan(value_of(rounded[i])), hit);
      }
    });
  }
}

}  // namespace
}  // namespace stella
