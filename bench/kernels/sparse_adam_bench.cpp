#include "kernels/sparse_adam.hpp"

#include "bench_data.hpp"

namespace stella::bench {
namespace {

// Argument: density in 1/1000. 16 buckets and 61 lists of blocks take turns: more than the last-level cache
// holds.
void sparse_adam_step(benchmark::State& state) {
  constexpr std::size_t kBuckets = 16;
  constexpr std::size_t kLists = 61;
  const double density = static_cast<double>(state.range(0)) / 1000;
  std::vector<std::vector<BlockId>> lists;
  for (std::uint64_t seed = 0; seed < kLists; ++seed) lists.push_back(some_blocks(density, seed));
  const auto gradient = normal(kNumel);
  const std::vector<float> bias1(160, 0.5f), root_of_bias2(17'000, 0.5f);
  AlignedArray<std::uint32_t> steps(kBuckets * kBlocks);
  AlignedArray<float> weights(kBuckets * kNumel), exp_avg(kBuckets * kNumel), exp_avg_sq(kBuckets * kNumel);
  const AdamStep step{1, 0, 0.9f, 0.1f, 0.999f, 0.001f, 1e-8f, false};
  std::size_t call = 0;
  for (auto _ : state) {
    const auto& blocks = lists[call % kLists];
    const std::size_t at = call++ % kBuckets * kNumel;
    sparse_adam(blocks, gradient.data(), step, {steps.data() + at / kBlock, bias1, root_of_bias2, 1e-3f},
                {weights.data() + at, exp_avg.data() + at, exp_avg_sq.data() + at, nullptr});
    benchmark::ClobberMemory();
  }
  per(state, "block", density * kBlocks);
}
BENCHMARK(sparse_adam_step)->Arg(10)->Arg(100)->Arg(1000);

}  // namespace
}  // namespace stella::bench
