#include "compress/merge.hpp"

#include "bench_data.hpp"

namespace stella::bench {
namespace {

// Blocks are those that all members sent. Arguments: members, density in 1/1000.
void merge_members(benchmark::State& state) {
  std::vector<SparseGradient> contributions;
  std::size_t sent = 0;
  for (std::uint64_t member = 0; member < static_cast<std::uint64_t>(state.range(0)); ++member) {
    auto blocks = some_blocks(static_cast<double>(state.range(1)) / 1000, member);
    sent += blocks.size();
    auto values = normal(blocks.size() * kBlock, member);
    contributions.push_back({std::move(blocks), std::move(values)});
  }
  for (auto _ : state) {
    const auto merged = merge(contributions, 128);
    benchmark::DoNotOptimize(merged.values.data());
  }
  per(state, "block", static_cast<double>(sent));
}
BENCHMARK(merge_members)->ArgsProduct({{2, 4, 8, 32}, {10}})->Args({4, 100})->Args({4, 1000});

}  // namespace
}  // namespace stella::bench
