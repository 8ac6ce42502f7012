#include "optim/optimizer.hpp"

#include <algorithm>

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
  const std::uint32_t t = count(0);
  std::ranges::fill(counts, t);
  return t;
}

std::unique_ptr<SparseOptimizer> make_optimizer(const GroupSettings& settings, std::size_t total_blocks) {
  validate(settings);
  if (settings.kind == OptimizerKind::sgd) return std::make_unique<SparseSgd>(settings, total_blocks);
  return std::make_unique<SparseAdam>(settings, total_blocks);
}

}  // namespace stella
