#include "kernels/sparse_sgd.hpp"

#include "bench_data.hpp"

namespace stella::bench {
namespace {

// Argument: density in 1/1000. 16 buckets and 61 lists of blocks take turns: more than the last-level cache
// holds.
void sparse_sgd_momentum_step(benchmark::State& state) {
  constexpr std::size_t kBuckets = 16;
  constexpr std::size_t kLists = 61;
  const double density = static_cast<double>(state.range(0)) / 1000;
  std::vector<std::vector<BlockId>> lists;
  for (std::uint64_t seed = 0; seed < kLists; ++seed) lists.push_back(some_blocks(density, seed));
  const auto gradient = normal(kNumel);
  AlignedArray<std::uint32_t> steps(kBuckets * kBlocks);
  AlignedArray<float> weights(kBuckets * kNumel), momentum_buffer(kBuckets * kNumel);
  const SgdStep step{0.1f, 0.9f, 1e-4f, true, false};
  std::size_t call = 0;
  for (auto _ : state) {
    const auto& blocks = lists[call % kLists];
    const std::size_t at = call++ % kBuckets * kNumel;
    const BlockMomentum momentum{momentum_buffer.data() + at, steps.data() + at / kBlock, 1.0f};
    sparse_sgd(blocks, gradient.data(), step, weights.data() + at, &momentum);
    benchmark::ClobberMemory();
  }
  per(state, "block", density * kBlocks);
}
BENCHMARK(sparse_sgd_momentum_step)->Arg(10)->Arg(100)->Arg(1000);

}  // namespace
}  // namespace stella::bench
