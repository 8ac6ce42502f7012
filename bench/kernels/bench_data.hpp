// What the benchmarks work on: one default bucket (4 MiB of fp32).
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <cstdint>
#include <random>
#include <vector>

#include "base/aligned.hpp"
#include "base/ids.hpp"
#include "kernels/block.hpp"

namespace stella::bench {

inline constexpr std::size_t kNumel = std::size_t{1} << 20;
inline constexpr std::size_t kBlocks = kNumel / kBlock;

// Parameters that no cache holds: 256 MiB of fp32.
inline constexpr std::size_t kLarge = std::size_t{1} << 26;

inline AlignedArray<float> normal(std::size_t size, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> distribution;
  AlignedArray<float> values(size);
  for (std::size_t i = 0; i < size; ++i) values[i] = distribution(random);
  return values;
}

// The same million numbers again and again: for arrays so large that drawing them would take longer than what
// is measured.
inline AlignedArray<float> repeated_normal(std::size_t size) {
  static const auto some = normal(kNumel);
  AlignedArray<float> values(size);
  for (std::size_t at = 0; at < size; at += kNumel)
    std::copy_n(some.data(), std::min(kNumel, size - at), values.data() + at);
  return values;
}

// Each block with that probability, ascending: by the gaps between them.
inline std::vector<BlockId> some_blocks(double density, std::uint64_t seed = 1, std::size_t total = kBlocks) {
  std::mt19937_64 random(seed);
  std::geometric_distribution<std::size_t> gap(std::min(density, 0.999999));
  std::vector<BlockId> blocks;
  for (std::size_t block = density < 1 ? gap(random) : 0; block < total;
       block += 1 + (density < 1 ? gap(random) : 0))
    blocks.push_back(static_cast<BlockId>(block));
  return blocks;
}

// Reports seconds per `unit` of which each iteration of a thread handles `count`: of all threads together.
inline void per(benchmark::State& state, const char* unit, double count) {
  state.counters[std::string("s_per_") + unit] =
      benchmark::Counter(static_cast<double>(state.iterations()) * count,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

}  // namespace stella::bench
