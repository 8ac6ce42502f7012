#include "kernels/collect.hpp"

#include <algorithm>
#include <bit>
#include <functional>

#include "bench_data.hpp"

namespace stella::bench {
namespace {

// Scores are squares of normal numbers. Argument: of 1000 blocks those that pass.
void collect(benchmark::State& state) {
  auto scores = normal(kBlocks);
  for (std::size_t i = 0; i < kBlocks; ++i) scores[i] *= scores[i];
  std::vector<float> sorted(scores.data(), scores.data() + kBlocks);
  std::sort(sorted.begin(), sorted.end(), std::greater<>());
  const std::size_t wanted = kBlocks * static_cast<std::size_t>(state.range(0)) / 1000;
  const auto least = std::bit_cast<std::uint32_t>(sorted[wanted - 1]);
  std::vector<BlockId> ids(kBlocks);
  for (auto _ : state) {
    benchmark::DoNotOptimize(collect_at_least(scores, least, ids.data()));
    benchmark::ClobberMemory();
  }
  per(state, "block", kBlocks);
}
BENCHMARK(collect)->Arg(10)->Arg(100)->Arg(1000);

// As often as a threshold is tried for a chunk of 1024 values, which lies in the first cache.
void count_in_a_chunk(benchmark::State& state) {
  constexpr std::size_t kChunk = 1024;
  const auto values = normal(kChunk);
  for (auto _ : state) benchmark::DoNotOptimize(count_at_least(values, std::bit_cast<std::uint32_t>(2.5f)));
  per(state, "value", kChunk);
}
BENCHMARK(count_in_a_chunk);

}  // namespace
}  // namespace stella::bench
