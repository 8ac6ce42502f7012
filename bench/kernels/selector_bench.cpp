#include "compress/selector.hpp"

#include "bench_data.hpp"
#include "kernels/accumulate_score.hpp"

namespace stella::bench {
namespace {

// Parameters are those of the bucket, not of what is chosen. Argument: density in 1/1000.
void select(benchmark::State& state, const char* name) {
  constexpr std::size_t kVariants = 8;
  std::vector<AlignedArray<float>> scores;
  for (std::size_t i = 0; i < kVariants; ++i) {
    AlignedArray<float> residual(kNumel);
    scores.emplace_back(kBlocks);
    accumulate_score(normal(kNumel, i), 1, residual.data(), scores.back().data());
  }
  auto selector = make_selector(name, 1);
  std::vector<BlockId> chosen;
  std::size_t call = 0;
  for (auto _ : state) {
    selector->select(scores[call++ % kVariants], kBlocks * static_cast<std::size_t>(state.range(0)) / 1000,
                     chosen);
    benchmark::DoNotOptimize(chosen.data());
  }
  per(state, "parameter", kNumel);
}
BENCHMARK_CAPTURE(select, blocks, "blocks")->Arg(10)->Arg(100);
BENCHMARK_CAPTURE(select, threshold, "threshold")->Arg(10)->Arg(100);
BENCHMARK_CAPTURE(select, random, "random")->Arg(10);

}  // namespace
}  // namespace stella::bench
