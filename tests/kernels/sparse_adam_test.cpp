#include "kernels/sparse_adam.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/block.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

// The header's formulas as a plain loop.
void reference(std::span<const BlockId> blocks, const float* gradient, const AdamStep& step,
               const BlockCorrections& corrections, const AdamArrays& arrays) {
  for (std::size_t i = 0; i < blocks.size() * kBlock; ++i) {
    const std::size_t at = blocks[i / kBlock] * kBlock + i % kBlock;
    float& weight = arrays.weights[at];
    float& m = arrays.exp_avg[at];
    float& v = arrays.exp_avg_sq[at];
    const float w = weight * step.shrink;
    const float signed_gradient = step.maximize ? -gradient[i] : gradient[i];
    const float decay = step.weight_decay * w;
    const float g = signed_gradient + decay;
    const float change = g - m;
    const float part = step.one_minus_beta1 < 0.5f ? step.one_minus_beta1 * change : step.beta1 * change;
    m = step.one_minus_beta1 < 0.5f ? m + part : g - part;
    const float kept = step.beta2 * v;
    const float scaled = step.one_minus_beta2 * g;
    const float square = scaled * g;
    v = kept + square;
    float second = v;
    if (arrays.max_exp_avg_sq != nullptr) {
      second = arrays.max_exp_avg_sq[at] = std::max(arrays.max_exp_avg_sq[at], v);
    }
    const std::size_t before = corrections.steps[blocks[i / kBlock]];
    const std::size_t entry1 = std::min(before, corrections.bias1.size() - 1);
    const std::size_t entry2 = std::min(before, corrections.root_of_bias2.size() - 1);
    const float root = std::sqrt(second) / corrections.root_of_bias2[entry2];
    const float step_size = corrections.lr / corrections.bias1[entry1];
    const float numerator = step_size * m;
    weight = w - numerator / (root + step.eps);
  }
  for (const BlockId block : blocks) {
    if (corrections.steps[block] != 0xffffffff) ++corrections.steps[block];
  }
}

// Few, so that tables end below some of them; some that can grow no more.
std::vector<std::uint32_t> some_counts(Random& random, std::size_t blocks) {
  std::vector<std::uint32_t> steps(blocks);
  for (std::uint32_t& own : steps) {
    own = static_cast<std::uint32_t>(random() % 10);
    if (own == 9) own = 0xffffffff - static_cast<std::uint32_t>(random() % 2);
  }
  return steps;
}

struct Arrays {
  std::vector<float> weights, exp_avg, exp_avg_sq, max_exp_avg_sq;
  AdamArrays pointers(bool amsgrad) {
    return {weights.data(), exp_avg.data(), exp_avg_sq.data(), amsgrad ? max_exp_avg_sq.data() : nullptr};
  }
};

std::vector<float> positive(Random& random, std::size_t size) {
  auto values = normal(random, size);
  for (float& value : values) value = std::fabs(value) + 0.01f;
  return values;
}

void expect_reference(const AdamStep& step, bool amsgrad, std::size_t total, double density) {
  Random random(seed());
  const auto blocks = some_blocks(random, total, density);
  const auto gradient = normal(random, blocks.size() * kBlock);
  const auto bias1 = positive(random, 4);
  const auto root_of_bias2 = positive(random, 7);
  const auto steps = some_counts(random, total);
  const std::size_t size = total * kBlock;
  const Arrays before{normal(random, size), normal(random, size), positive(random, size),
                      positive(random, size)};
  Arrays expected = before;
  auto expected_steps = steps;
  reference(blocks, gradient.data(), step, {expected_steps.data(), bias1, root_of_bias2, 0.01f},
            expected.pointers(amsgrad));
  on_every_target([&] {
    Arrays own = before;
    auto own_steps = steps;
    sparse_adam(blocks, gradient.data(), step, {own_steps.data(), bias1, root_of_bias2, 0.01f},
                own.pointers(amsgrad));
    EXPECT_EQ(own_steps, expected_steps);
    EXPECT_TRUE(same_bits(own.weights, expected.weights));
    EXPECT_TRUE(same_bits(own.exp_avg, expected.exp_avg));
    EXPECT_TRUE(same_bits(own.exp_avg_sq, expected.exp_avg_sq));
    EXPECT_TRUE(same_bits(own.max_exp_avg_sq, expected.max_exp_avg_sq));
  });
}

TEST(SparseAdam, EveryTargetGivesTheBitsOfTheFormulas) {
  for (float beta1 : {0.9f, 0.3f, 0.0f}) {
    for (float weight_decay : {0.0f, 0.01f}) {
      for (bool amsgrad : {false, true}) {
        for (bool maximize : {false, true}) {
          const AdamStep step{.shrink = 1 - weight_decay,
                              .weight_decay = weight_decay,
                              .beta1 = beta1,
                              .one_minus_beta1 = 1 - beta1,
                              .beta2 = 0.999f,
                              .one_minus_beta2 = 0.001f,
                              .eps = 1e-8f,
                              .maximize = maximize};
          for (std::size_t total : {0, 1, 2, 31, 1500}) {
            for (double density : {0.05, 0.3, 0.9, 1.0}) expect_reference(step, amsgrad, total, density);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace stella
