#include "compress/encoding.hpp"

#include <cstring>

#include "bench_data.hpp"

namespace stella::bench {
namespace {

// Bytes are those of the fp32 values that go in or come out. The first argument is the density in 1/1000.

// Calls encode(blocks, residual, out) in each iteration. It finds a fresh residual, in the caches as far as
// it fits: what the iteration before left is near zero, and costs less.
template <class Encode>
void with_fresh_residuals(benchmark::State& state, Encode encode) {
  const auto blocks = some_blocks(static_cast<double>(state.range(0)) / 1000);
  const auto fresh = normal(kNumel);
  AlignedArray<float> residual(kNumel);
  Bytes out;
  for (auto _ : state) {
    state.PauseTiming();
    std::copy_n(fresh.data(), kNumel, residual.data());
    out.clear();
    state.ResumeTiming();
    encode(blocks, residual.span(), out);
    benchmark::DoNotOptimize(out.data());
  }
  state.SetBytesProcessed(state.iterations() *
                          static_cast<std::int64_t>(blocks.size() * kBlock * sizeof(float)));
}

// The second argument is the value coding.
void encode(benchmark::State& state) {
  const Coding coding{static_cast<ValueCoding>(state.range(1))};
  with_fresh_residuals(state, [&](std::span<const BlockId> blocks, std::span<float> residual, Bytes& out) {
    encode_blocks(blocks, coding, residual, out);
  });
}
BENCHMARK(encode)->ArgsProduct({{10, 100, 1000}, {0, 1, 2, 3, 4, 5, 6}});

// A yardstick: memcpy of the same blocks, one by one, into memory that is there.
void copy_blocks(benchmark::State& state) {
  Bytes copied(kNumel * sizeof(float));
  with_fresh_residuals(state, [&](std::span<const BlockId> blocks, std::span<float> residual, Bytes&) {
    constexpr std::size_t kBytes = kBlock * sizeof(float);
    for (std::size_t k = 0; k < blocks.size(); ++k)
      std::memcpy(copied.data() + k * kBytes, residual.data() + blocks[k] * kBlock, kBytes);
    benchmark::ClobberMemory();
  });
}
BENCHMARK(copy_blocks)->Arg(10)->Arg(100)->Arg(1000);

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
BENCHMARK(decode)->ArgsProduct({{10, 100, 1000}, {0, 1, 2, 3, 4, 5, 6}});

}  // namespace
}  // namespace stella::bench
