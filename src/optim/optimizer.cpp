#include "optim/optimizer.hpp"

#include <algorithm>

#include "kernels/step_count.hpp"
#include "optim/adam.hpp"
#include "optim/settings.hpp"
#include "optim/sgd.hpp"

namespace stella {

std::optional<std::uint32_t> SparseOptimizer::count_all() {
  if (steps_.empty()) return std::nullopt;
  const std::span<std::uint32_t> counts = steps_.span();
  std::uint32_t differing = 0;
  for (const std::uint32_t own : counts) differing |= own ^ counts[0];
  if (differing != 0) return std::nullopt;
  count_step(counts[0]);
  std::ranges::fill(counts.subspan(1), counts[0]);
  return counts[0];
}

std::uint32_t SparseOptimizer::most_after_a_step() {
  const std::span<const std::uint32_t> counts = steps_.span();
  if (!most_is_known_) most_ = counts.empty() ? 0 : std::ranges::max(counts);
  most_is_known_ = true;
  count_step(most_);
  return most_;
}

std::unique_ptr<SparseOptimizer> make_optimizer(const GroupSettings& settings, std::size_t total_blocks) {
  validate(settings);
  if (settings.kind == OptimizerKind::sgd) return std::make_unique<SparseSgd>(settings, total_blocks);
  return std::make_unique<SparseAdam>(settings, total_blocks);
}

}  // namespace stella
