// Gradients of several kinds, and what their blocks hold.
#pragma once

#include <algorithm>
#include <cmath>
#include <random>
#include <span>
#include <vector>

#include "base/ids.hpp"
#include "kernels/accumulate_score.hpp"
#include "kernels/block.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella::testing {

// Student's t: for 2 or 3 degrees of freedom a few values outweigh all others.
inline std::vector<float> heavy_tailed(Random& random, std::size_t size, double degrees_of_freedom) {
  std::student_t_distribution<double> distribution(degrees_of_freedom);
  std::vector<float> values(size);
  for (float& value : values) value = static_cast<float>(distribution(random));
  return values;
}

// Rows of an embedding table of which a batch touched a few; the touched ones differ in how often they
// occurred.
inline std::vector<float> embedding(Random& random, std::size_t rows, std::size_t row_size, double touched) {
  std::vector<float> values(rows * row_size, 0.0f);
  for (const BlockId row : some_blocks(random, rows, touched)) {
    const float occurrences = 1 / (0.01f + std::generate_canonical<float, 24>(random));
    const auto drawn = normal(random, row_size, occurrences);
    std::copy(drawn.begin(), drawn.end(), values.begin() + static_cast<std::ptrdiff_t>(row * row_size));
  }
  return values;
}

inline std::vector<float> scores_of(std::span<const float> gradient) {
  std::vector<float> residual(gradient.size());
  std::vector<float> scores(gradient.size() / kBlock);
  accumulate_score(gradient, 1, residual.data(), scores.data());
  return scores;
}

// Sum of squares of each block.
inline std::vector<double> energies_of(std::span<const float> gradient) {
  std::vector<double> energies(gradient.size() / kBlock);
  for (std::size_t i = 0; i < gradient.size(); ++i) energies[i / kBlock] += double{gradient[i]} * gradient[i];
  return energies;
}

// Sum of magnitudes of each block, the paper's score.
inline std::vector<double> magnitudes_of(std::span<const float> gradient) {
  std::vector<double> sums(gradient.size() / kBlock);
  for (std::size_t i = 0; i < gradient.size(); ++i) sums[i / kBlock] += std::fabs(double{gradient[i]});
  return sums;
}

}  // namespace stella::testing
