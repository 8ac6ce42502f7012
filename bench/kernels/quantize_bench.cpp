#include "kernels/quantize.hpp"

#include <numeric>

#include "bench_data.hpp"

namespace stella::bench {
namespace {

constexpr std::size_t kTaken = kBlocks / 100;  // 64 KiB of fp32

// The first blocks of a bucket: where they lie is measured with the encoding.
std::vector<BlockId> first_blocks() {
  std::vector<BlockId> blocks(kTaken);
  std::iota(blocks.begin(), blocks.end(), BlockId{0});
  return blocks;
}

void measure(benchmark::State& state,
             void (*kernel)(std::span<const BlockId>, std::size_t, const float*, float*)) {
  const auto blocks = first_blocks();
  const auto values = normal(kTaken * kBlock);
  std::vector<float> result(kTaken);
  for (auto _ : state) {
    kernel(blocks, kBlock, values.data(), result.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kTaken * kBlock * sizeof(float)));
}
BENCHMARK_CAPTURE(measure, maxima, block_maxima);
BENCHMARK_CAPTURE(measure, means, block_means);

// What is left of a residual is no smaller than before where the step is as large as the values: here it
// alternates between two states. Argument: bits.
void quantize(benchmark::State& state) {
  const auto bits = static_cast<unsigned>(state.range(0));
  const auto blocks = first_blocks();
  auto residual = normal(kTaken * kBlock);
  const std::vector<float> steps(kTaken, 4.0f);
  std::vector<std::uint8_t> codes(kTaken * code_bytes(bits, kBlock));
  for (auto _ : state) {
    take_blocks_quantized(bits, blocks, kBlock, steps.data(), residual.data(), codes.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kTaken * kBlock * sizeof(float)));
}
BENCHMARK(quantize)->Arg(8)->Arg(4)->Arg(2)->Arg(1);

// Argument: bits.
void dequantize_codes(benchmark::State& state) {
  const auto bits = static_cast<unsigned>(state.range(0));
  const std::vector<float> steps(kTaken, 0.5f);
  std::vector<std::uint8_t> codes(kTaken * code_bytes(bits, kBlock));
  std::mt19937_64 random(1);
  for (auto& code : codes) code = static_cast<std::uint8_t>(random());
  AlignedArray<float> values(kTaken * kBlock);
  for (auto _ : state) {
    dequantize(bits, codes.data(), steps, kBlock, values.data());
    benchmark::ClobberMemory();
  }
  state.SetBytesProcessed(state.iterations() * static_cast<std::int64_t>(kTaken * kBlock * sizeof(float)));
}
BENCHMARK(dequantize_codes)->Arg(8)->Arg(4)->Arg(2)->Arg(1);

}  // namespace
}  // namespace stella::bench
