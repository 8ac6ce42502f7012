// The machine's limits, measured in the same run as what is held against them: plain passes over arrays far
// larger than the caches.
#include <cstring>

#include "bench_data.hpp"
#include "kernels/reduce.hpp"

namespace stella::bench {
namespace {

AlignedArray<float>& large(std::size_t which) {
  static std::array<AlignedArray<float>, 2> arrays = {repeated_normal(kLarge), repeated_normal(kLarge)};
  return arrays[which];
}

// This thread's share of a large array.
std::span<float> share(const benchmark::State& state, std::size_t which) {
  const std::size_t size = kLarge / static_cast<std::size_t>(state.threads());
  return large(which).span().subspan(size * static_cast<std::size_t>(state.thread_index()), size);
}

void read(benchmark::State& state) {
  const auto values = share(state, 0);
  std::uint64_t sum = 0;
  for (auto _ : state) {
    for (std::size_t i = 0; i < values.size(); i += 2) {
      std::uint64_t word;
      std::memcpy(&word, &values[i], sizeof word);
      sum += word;
    }
    benchmark::DoNotOptimize(sum);
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(values.size()));
}

void copy(benchmark::State& state) {
  const auto from = share(state, 0), to = share(state, 1);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size_bytes());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(from.size()));
}

// r += g: 12 bytes of traffic for each parameter.
void add_in_place(benchmark::State& state) {
  const auto gradient = share(state, 0), residual = share(state, 1);
  for (auto _ : state) {
    add(gradient, residual.data());
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(gradient.size()));
}

// Memory to memory where both are in a cache: what wide values are held against. Argument: bytes.
void copy_cached(benchmark::State& state) {
  const auto size = static_cast<std::size_t>(state.range(0));
  std::vector<std::byte> from(size), to(size);
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), size);
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * state.range(0));
}

BENCHMARK(copy_cached)->Arg(kNumel / 100 * 4)->Arg(kNumel / 10 * 4)->Arg(kNumel * 4);
BENCHMARK(read)->ThreadRange(1, 2)->UseRealTime();
BENCHMARK(copy)->ThreadRange(1, 2)->UseRealTime();
BENCHMARK(add_in_place)->ThreadRange(1, 2)->UseRealTime();

}  // namespace
}  // namespace stella::bench
