// What the benchmarks work on: one default bucket (4 MiB of fp32).
#pragma once

#include <benchmark/benchmark.h>

#include <cstdint>
#include <random>
#include <vector>

#include "base/aligned.hpp"
#include "base/ids.hpp"
#include "kernels/block.hpp"

namespace stella::bench {

inline constexpr std::size_t kNumel = std::size_t{1} << 20;
inline constexpr std::size_t kBlocks = kNumel / kBlock;

inline AlignedArray<float> normal(std::size_t size, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> distribution;
  AlignedArray<float> values(size);
  for (std::size_t i = 0; i < size; ++i) values[i] = distribution(random);
  return values;
}

// Each block with that probability, ascending.
inline std::vector<BlockId> some_blocks(double density, std::uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  std::bernoulli_distribution chosen(density);
  std::vector<BlockId> blocks;
  for (std::size_t block = 0; block < kBlocks; ++block) {
    if (chosen(random)) blocks.push_back(static_cast<BlockId>(block));
  }
  return blocks;
}

// Reports nanoseconds per `unit` of which each iteration handles `count`.
inline void per(benchmark::State& state, const char* unit, double count) {
  state.counters[std::string("s_per_") + unit] =
      benchmark::Counter(static_cast<double>(state.iterations()) * count,
                         benchmark::Counter::kIsRate | benchmark::Counter::kInvert);
}

}  // namespace stella::bench
