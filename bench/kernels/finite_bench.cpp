#include "kernels/finite.hpp"

#include <cmath>

#include "bench_data.hpp"

namespace stella::bench {
namespace {

// Argument: how many values; a thousand stay in the first cache.
void find_nonfinite(benchmark::State& state) {
  const auto values = normal(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) benchmark::DoNotOptimize(stella::find_nonfinite(values));
  per(state, "value", static_cast<double>(values.size()));
}
BENCHMARK(find_nonfinite)->Arg(1024)->Arg(kNumel);

// The naive way.
void find_nonfinite_plain(benchmark::State& state) {
  const auto values = normal(static_cast<std::size_t>(state.range(0)));
  for (auto _ : state) {
    const auto found = std::find_if(values.data(), values.data() + values.size(),
                                    [](float value) { return !std::isfinite(value); });
    benchmark::DoNotOptimize(found);
  }
  per(state, "value", static_cast<double>(values.size()));
}
BENCHMARK(find_nonfinite_plain)->Arg(1024)->Arg(kNumel);

void find_nonfinite_block(benchmark::State& state) {
  const auto values = normal(kNumel);
  const auto blocks = some_blocks(0.1);
  for (auto _ : state) benchmark::DoNotOptimize(stella::find_nonfinite_block(blocks, kBlock, values.data()));
  per(state, "value", static_cast<double>(blocks.size() * kBlock));
}
BENCHMARK(find_nonfinite_block);

}  // namespace
}  // namespace stella::bench
