#include "compress/merge.hpp"

#include <algorithm>
#include <string>

#include "compress/union.hpp"
#include "kernels/block.hpp"
#include "kernels/reduce.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

bool all_send_the_same_blocks(std::span<const SparseGradient> contributions) {
  return std::all_of(contributions.begin() + 1, contributions.end(), [&](const SparseGradient& other) {
    return other.blocks == contributions.front().blocks;
  });
}

SparseGradient sum_of_equal_lists(std::span<const SparseGradient> contributions) {
  SparseGradient sum;
  sum.blocks = contributions.front().blocks;
  const auto first = contributions.front().values.span();
  sum.values = AlignedArray<float>::uninitialized(first.size());
  std::copy(first.begin(), first.end(), sum.values.data());
  for (const auto& contribution : contributions.subspan(1)) add(contribution.values, sum.values.data());
  return sum;
}

SparseGradient sum_over_union(std::span<const SparseGradient> contributions) {
  std::vector<std::span<const BlockId>> lists;
  for (const auto& contribution : contributions) lists.emplace_back(contribution.blocks);
  BlockUnion all = union_of(lists);

  SparseGradient sum;
  sum.blocks = std::move(all.blocks);
  sum.values = AlignedArray<float>::uninitialized(sum.blocks.size() * kBlock);
  // -0 is what leaves every number as it is, +0 too; +0 would turn -0 into +0.
  std::fill_n(sum.values.data(), sum.values.size(), -0.0f);
  for (std::size_t j = 0; j < contributions.size(); ++j) {
    scatter_add(contributions[j].values, all.positions[j], sum.values.data());
  }
  return sum;
}

}  // namespace

SparseGradient merge(std::span<const SparseGradient> contributions, double total_samples) {
  if (contributions.empty()) return {};
  SparseGradient sum = all_send_the_same_blocks(contributions) ? sum_of_equal_lists(contributions)
                                                               : sum_over_union(contributions);
  if (!sum.blocks.empty() && !(total_samples > 0)) {
    throw Error(ErrorCode::protocol, "members sent blocks of a gradient, but " +
                                         std::to_string(total_samples) + " samples in all");
  }
  divide(sum.values.span(), static_cast<float>(total_samples));
  return sum;
}

}  // namespace stella
