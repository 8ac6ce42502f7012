#include "kernels/sparse_sgd.hpp"

#include <array>

#include "kernels/block.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

// The header's formulas as a plain loop.
void reference(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step, float* weights,
               const BlockMomentum* momentum) {
  for (std::size_t i = 0; i < blocks.size() * kBlock; ++i) {
    const std::size_t at = blocks[i / kBlock] * kBlock + i % kBlock;
    const float signed_gradient = step.maximize ? -gradient[i] : gradient[i];
    const float decay = step.weight_decay * weights[at];
    const float g = signed_gradient + decay;
    float direction = g;
    if (momentum != nullptr) {
      float& m = momentum->buffer[at];
      const float kept = step.momentum * m;
      const float taken = (momentum->steps[blocks[i / kBlock]] == 0 ? 1 : momentum->later_take) * g;
      m = kept + taken;
      const float ahead = step.momentum * m;
      direction = step.nesterov ? g + ahead : m;
    }
    const float change = step.lr * direction;
    weights[at] = weights[at] - change;
  }
  for (const BlockId block : blocks) {
    if (momentum != nullptr && momentum->steps[block] != 0xffffffff) ++momentum->steps[block];
  }
}

struct Case {
  SgdStep step;
  bool momentum_buffer;
};

void expect_reference(const Case& c, std::size_t total, double density) {
  Random random(seed());
  const auto blocks = some_blocks(random, total, density);
  const auto gradient = normal(random, blocks.size() * kBlock);
  const auto weights = normal(random, total * kBlock);
  const auto momentum = normal(random, total * kBlock);
  std::vector<std::uint32_t> steps(total);
  for (std::uint32_t& own : steps) own = std::array{0u, 1u, 7u, 0xffffffffu}[random() % 4];
  auto expected_weights = weights;
  auto expected_momentum = momentum;
  auto expected_steps = steps;
  const BlockMomentum expected{expected_momentum.data(), expected_steps.data(), 0.25f};
  reference(blocks, gradient.data(), c.step, expected_weights.data(),
            c.momentum_buffer ? &expected : nullptr);
  on_every_target([&] {
    auto own_weights = weights;
    auto own_momentum = momentum;
    auto own_steps = steps;
    const BlockMomentum own{own_momentum.data(), own_steps.data(), 0.25f};
    sparse_sgd(blocks, gradient.data(), c.step, own_weights.data(), c.momentum_buffer ? &own : nullptr);
    EXPECT_TRUE(same_bits(own_weights, expected_weights));
    EXPECT_TRUE(same_bits(own_momentum, expected_momentum));
    EXPECT_EQ(own_steps, expected_steps);
  });
}

TEST(SparseSgd, EveryTargetGivesTheBitsOfTheFormulas) {
  for (bool momentum_buffer : {false, true}) {
    for (bool nesterov : {false, true}) {
      for (bool maximize : {false, true}) {
        for (float weight_decay : {0.0f, 0.01f}) {
          const Case c{{0.1f, 0.9f, weight_decay, nesterov, maximize}, momentum_buffer};
          for (std::size_t total : {0, 1, 2, 31, 1500}) {
            for (double density : {0.05, 0.3, 0.9, 1.0}) expect_reference(c, total, density);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace stella
