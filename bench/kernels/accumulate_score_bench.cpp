#include "kernels/accumulate_score.hpp"

#include "bench_data.hpp"
#include "kernels/reduce.hpp"

namespace stella::bench {
namespace {

// As the engine calls it: the sum lies beside the residual.
void accumulate_and_score(benchmark::State& state) {
  const auto gradient = normal(kNumel);
  AlignedArray<float> residual(kNumel), sum(kNumel), scores(kBlocks);
  for (auto _ : state) {
    accumulate_score(gradient, 0.5f, residual.data(), sum.data(), scores.data());
    benchmark::ClobberMemory();
  }
  per(state, "parameter", kNumel);
}
BENCHMARK(accumulate_and_score);

// A yardstick: gradient added into the residual in place, without scores.
void plain_add(benchmark::State& state) {
  const auto gradient = normal(kNumel);
  AlignedArray<float> residual(kNumel);
  for (auto _ : state) {
    add(gradient, residual.data());
    benchmark::ClobberMemory();
  }
  per(state, "parameter", kNumel);
}
BENCHMARK(plain_add);

// The naive way: what the compiler makes of the loops.
void plain_loops(benchmark::State& state) {
  const auto gradient = normal(kNumel);
  AlignedArray<float> residual(kNumel), sum(kNumel), scores(kBlocks);
  for (auto _ : state) {
    for (std::size_t i = 0; i < kNumel; ++i) sum[i] = residual[i] + 0.5f * gradient[i];
    for (std::size_t block = 0; block < kBlocks; ++block) {
      float score = 0;
      for (std::size_t i = 0; i < kBlock; ++i) score += sum[block * kBlock + i] * sum[block * kBlock + i];
      scores[block] = score;
    }
    benchmark::ClobberMemory();
  }
  per(state, "parameter", kNumel);
}
BENCHMARK(plain_loops);

}  // namespace
}  // namespace stella::bench
