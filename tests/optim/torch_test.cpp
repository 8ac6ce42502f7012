// With every block in every gradient, the optimizers do what torch's do.
#include <cmath>
#include <numeric>

#include "optim/optimizer.hpp"
#include "optim/sparse_gradients.hpp"
#include "optim/torch_golden.hpp"

namespace stella {
namespace {

using namespace testing;

// As in make_torch_golden.py.
float golden_weight(int i) { return static_cast<float>((i * 37 + 11) % 97 - 48) / 64; }
float golden_gradient(int i, int t) {
  return static_cast<float>((i * 7919 + t * 104729 + i * t * 31) % 2001 - 1000) / 1024;
}

SparseGradient dense_gradient(int t) {
  std::vector<BlockId> blocks(kGoldenNumel / kBlock);
  std::iota(blocks.begin(), blocks.end(), BlockId{0});
  std::vector<float> values(kGoldenNumel);
  for (int i = 0; i < kGoldenNumel; ++i) values[i] = golden_gradient(i, t);
  return sparse(blocks, values);
}

TEST(Torch, AtDensityOneEveryOptimizerFollowsTorchs) {
  for (const auto& golden : kGolden) {
    auto optimizer = make_optimizer(golden.settings, kGoldenNumel / kBlock);
    std::vector<float> weights(kGoldenNumel);
    for (int i = 0; i < kGoldenNumel; ++i) weights[i] = golden_weight(i);
    std::size_t recorded = 0;
    for (int t = 1; t <= kGoldenSteps.back(); ++t) {
      optimizer->step(dense_gradient(t), golden.settings, weights);
      if (t != kGoldenSteps[recorded]) continue;
      for (int i = 0; i < kGoldenNumel; ++i) {
        const float expected = golden.weights[recorded][i];
        EXPECT_NEAR(weights[i], expected, 1e-6f * std::max(1.0f, std::fabs(expected)))
            << "case " << &golden - kGolden.data() << ", step " << t << ", element " << i;
      }
      ++recorded;
    }
    EXPECT_EQ(recorded, kGoldenSteps.size());
  }
}

}  // namespace
}  // namespace stella
