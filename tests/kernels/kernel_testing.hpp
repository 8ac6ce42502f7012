// What the tests of kernels, and of what is built on them, share.
#pragma once

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "kernels/cpu.hpp"

namespace stella::testing {

// The targets that this machine has, best first; they are printed once.
inline const std::vector<std::string>& tested_targets() {
  static const std::vector<std::string> value = [] {
    std::string line = "targets tested:";
    for (const auto& target : supported_targets()) line += " " + target;
    std::puts(line.c_str());
    return supported_targets();
  }();
  return value;
}

// Runs `body` once on each of them, then returns to the best one.
template <class Body>
void on_every_target(Body body) {
  for (const auto& target : tested_targets()) {
    SCOPED_TRACE("target " + target);
    force_target(target);
    body();
  }
  force_target("");
}

// Every test starts from the same seed, or from STELLA_TEST_SEED; it is printed once.
inline std::uint64_t seed() {
  static const std::uint64_t value = [] {
    const char* text = std::getenv("STELLA_TEST_SEED");
    const std::uint64_t chosen = text != nullptr ? std::strtoull(text, nullptr, 10) : 20240804;
    std::printf("STELLA_TEST_SEED=%llu\n", static_cast<unsigned long long>(chosen));
    return chosen;
  }();
  return value;
}

using Random = std::mt19937_64;

inline std::vector<float> normal(Random& random, std::size_t size, float scale = 1) {
  std::normal_distribution<float> distribution(0, scale);
  std::vector<float> values(size);
  for (float& value : values) value = distribution(random);
  return values;
}

// Each of 0 .. total - 1 with that probability, ascending.
inline std::vector<BlockId> some_blocks(Random& random, std::size_t total, double density) {
  std::bernoulli_distribution chosen(density);
  std::vector<BlockId> blocks;
  for (std::size_t block = 0; block < total; ++block) {
    if (chosen(random)) blocks.push_back(static_cast<BlockId>(block));
  }
  return blocks;
}

// Equal to the last bit: +0 is not -0, and a NaN equals itself.
inline ::testing::AssertionResult same_bits(std::span<const float> a, std::span<const float> b) {
  if (a.size() != b.size())
    return ::testing::AssertionFailure() << a.size() << " and " << b.size() << " values";
  for (std::size_t i = 0; i < a.size(); ++i) {
    if (std::memcmp(&a[i], &b[i], sizeof(float)) != 0) {
      return ::testing::AssertionFailure() << "at " << i << ": " << a[i] << " and " << b[i];
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace stella::testing
