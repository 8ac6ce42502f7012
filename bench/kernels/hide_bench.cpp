#include "kernels/hide.hpp"

#include "bench_data.hpp"

namespace stella::bench {
namespace {

// 20 bytes of traffic for each of 64 M values.
void hide_all(benchmark::State& state) {
  const auto common = repeated_normal(kLarge);
  auto own = repeated_normal(kLarge);
  AlignedArray<float> hidden(kLarge);
  for (auto _ : state) {
    hide({0.5f, 0.1f}, common.data(), own, hidden.data());
    benchmark::ClobberMemory();
  }
  per(state, "value", kLarge);
}
BENCHMARK(hide_all)->UseRealTime();

}  // namespace
}  // namespace stella::bench
