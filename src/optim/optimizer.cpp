#include "optim/optimizer.hpp"

#include "optim/adam.hpp"
#include "optim/settings.hpp"
#include "optim/sgd.hpp"

namespace stella {

std::unique_ptr<SparseOptimizer> make_optimizer(const GroupSettings& settings, std::size_t total_blocks) {
  validate(settings);
  if (settings.kind == OptimizerKind::sgd) return std::make_unique<SparseSgd>(settings, total_blocks);
  return std::make_unique<SparseAdam>(settings, total_blocks);
}

}  // namespace stella
