#include "kernels/accumulate_score.hpp"

#include "bench_data.hpp"
#include "kernels/reduce.hpp"

namespace stella::bench {
namespace {

void accumulate_and_score(benchmark::State& state) {
  const auto gradient = normal(kNumel);
  AlignedArray<float> residual(kNumel), scores(kBlocks);
  for (auto _ : state) {
    accumulate_score(gradient, 0.5f, residual.data(), scores.data());
    benchmark::ClobberMemory();
  }
  per(state, "parameter", kNumel);
}
BENCHMARK(accumulate_and_score);

// A yardstick: gradient added into the residual, without scores.
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
  AlignedArray<float> residual(kNumel), scores(kBlocks);
  for (auto _ : state) {
    for (std::size_t i = 0; i < kNumel; ++i) residual[i] += 0.5f * gradient[i];
    for (std::size_t block = 0; block < kBlocks; ++block) {
      const float* r = &residual[block * kBlock];
      float score = 0;
      for (std::size_t i = 0; i < kBlock; ++i) score += r[i] * r[i];
      scores[block] = score;
    }
    benchmark::ClobberMemory();
  }
  per(state, "parameter", kNumel);
}
BENCHMARK(plain_loops);

}  // namespace
}  // namespace stella::bench
