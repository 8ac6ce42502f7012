// torch.optim.SGD on sparse gradients: momentum, dampening, Nesterov, weight decay.
#pragma once

#include "optim/optimizer.hpp"

namespace stella {

class SparseSgd : public SparseOptimizer {
 public:
  SparseSgd(const GroupSettings& settings, std::size_t total_blocks);
  bool takes(OptimizerKind kind) const override { return kind == OptimizerKind::sgd; }
  void step(const SparseGradient& gradient, const GroupSettings& settings, std::span<float> weights) override;
  std::vector<StateTensor> state() override;
  bool allocate(std::string_view name) override;

 private:
  AlignedArray<float> momentum_buffer_;  // empty until momentum is not 0
};

}  // namespace stella
