#include "kernels/bf16.hpp"

#include "bench_data.hpp"

namespace stella::bench {
namespace {

void widen_from_bf16(benchmark::State& state) {
  const AlignedArray<std::uint16_t> from(kNumel);
  AlignedArray<float> to(kNumel);
  for (auto _ : state) {
    from_bf16(from, to.data());
    benchmark::ClobberMemory();
  }
  per(state, "parameter", kNumel);
}
BENCHMARK(widen_from_bf16);

}  // namespace
}  // namespace stella::bench
