#include "compress/encoding.hpp"

#include "bench_data.hpp"

namespace stella::bench {
namespace {

// Bytes are those of the fp32 values that go in or come out. Arguments: density in 1/1000, value coding.
// Each iteration finds a fresh residual: what the one before left is near zero, and costs less.
void encode(benchmark::State& state) {
  const auto blocks = some_blocks(static_cast<double>(state.range(0)) / 1000);
  const auto fresh = normal(kNumel);
  AlignedArray<float> residual(kNumel);
  Bytes out;
  for (auto _ : state) {
    state.PauseTiming();
    std::copy_n(fresh.data(), kNumel, residual.data());
    out.clear();
    state.ResumeTiming();
    encode_blocks(blocks, {static_cast<ValueCoding>(state.range(1))}, residual, out);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(state.iterations() *
                          static_cast<std::int64_t>(blocks.size() * kBlock * sizeof(float)));
}
BENCHMARK(encode)->ArgsProduct({{10, 100, 1000}, {0, 1, 2, 3, 4, 5}});

void decode(benchmark::State& state) {
  const auto blocks = some_blocks(static_cast<double>(state.range(0)) / 1000);
  auto residual = normal(kNumel);
  Bytes body;
  encode_blocks(blocks, {static_cast<ValueCoding>(state.range(1))}, residual, body);
  for (auto _ : state) {
    const auto gradient = decode_blocks(body, kBlocks);
    benchmark::DoNotOptimize(gradient.values.data());
  }
  state.SetBytesProcessed(state.iterations() *
                          static_cast<std::int64_t>(blocks.size() * kBlock * sizeof(float)));
}
BENCHMARK(decode)->ArgsProduct({{10, 100, 1000}, {0, 1, 2, 3, 4, 5}});

}  // namespace
}  // namespace stella::bench
