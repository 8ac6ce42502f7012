#include "kernels/sparse_sgd.hpp"

#include "kernels/block.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

// The header's formulas as a plain loop.
void reference(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step,
               std::span<const float> take, float* weights, float* momentum_buffer) {
  for (std::size_t i = 0; i < blocks.size() * kBlock; ++i) {
    const std::size_t at = blocks[i / kBlock] * kBlock + i % kBlock;
    const float signed_gradient = step.maximize ? -gradient[i] : gradient[i];
    const float decay = step.weight_decay * weights[at];
    const float g = signed_gradient + decay;
    float direction = g;
    if (momentum_buffer != nullptr) {
      const float kept = step.momentum * momentum_buffer[at];
      const float taken = take[i / kBlock] * g;
      momentum_buffer[at] = kept + taken;
      const float ahead = step.momentum * momentum_buffer[at];
      direction = step.nesterov ? g + ahead : momentum_buffer[at];
    }
    const float change = step.lr * direction;
    weights[at] = weights[at] - change;
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
  const auto take = normal(random, c.momentum_buffer ? blocks.size() : 0);
  const auto weights = normal(random, total * kBlock);
  const auto momentum = normal(random, total * kBlock);
  auto expected_weights = weights;
  auto expected_momentum = momentum;
  reference(blocks, gradient.data(), c.step, take, expected_weights.data(),
            c.momentum_buffer ? expected_momentum.data() : nullptr);
  on_every_target([&] {
    auto own_weights = weights;
    auto own_momentum = momentum;
    sparse_sgd(blocks, gradient.data(), c.step, take, own_weights.data(),
               c.momentum_buffer ? own_momentum.data() : nullptr);
    EXPECT_TRUE(same_bits(own_weights, expected_weights));
    EXPECT_TRUE(same_bits(own_momentum, expected_momentum));
  });
}

TEST(SparseSgd, EveryTargetGivesTheBitsOfTheFormulas) {
  for (bool momentum_buffer : {false, true}) {
    for (bool nesterov : {false, true}) {
      for (bool maximize : {false, true}) {
        for (float weight_decay : {0.0f, 0.01f}) {
          const Case c{{0.1f, 0.9f, weight_decay, nesterov, maximize}, momentum_buffer};
          for (std::size_t total : {0, 1, 2, 31, 500}) {
            expect_reference(c, total, 0.3);
            expect_reference(c, total, 1);
          }
        }
      }
    }
  }
}

}  // namespace
}  // namespace stella
