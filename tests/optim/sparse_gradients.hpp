// Gradients for optimizers.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "compress/sparse_gradient.hpp"
#include "kernels/block.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella::testing {

inline SparseGradient sparse(std::vector<BlockId> blocks, std::span<const float> values) {
  SparseGradient gradient{std::move(blocks), AlignedArray<float>(values.size())};
  std::copy(values.begin(), values.end(), gradient.values.data());
  return gradient;
}

inline SparseGradient random_gradient(Random& random, std::size_t total_blocks, double density) {
  auto blocks = some_blocks(random, total_blocks, density);
  const auto values = normal(random, blocks.size() * kBlock);
  return sparse(std::move(blocks), values);
}

}  // namespace stella::testing
