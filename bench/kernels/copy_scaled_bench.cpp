#include "kernels/copy_scaled.hpp"

#include <cstring>

#include "bench_data.hpp"

namespace stella::bench {
namespace {

void copy_scaled_and_checked(benchmark::State& state) {
  const auto from = normal(kNumel);
  AlignedArray<float> to(kNumel);
  for (auto _ : state) benchmark::DoNotOptimize(copy_scaled(from, 32, to.data()));
  state.SetBytesProcessed(state.iterations() * kNumel * sizeof(float));
}
BENCHMARK(copy_scaled_and_checked);

// The bound.
void plain_copy(benchmark::State& state) {
  const auto from = normal(kNumel);
  AlignedArray<float> to(kNumel);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), kNumel * sizeof(float));
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * kNumel * sizeof(float));
}
BENCHMARK(plain_copy);

}  // namespace
}  // namespace stella::bench
