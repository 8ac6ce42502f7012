// torch.optim.Adam and AdamW on sparse gradients: coupled or decoupled weight decay, amsgrad.
#pragma once

#include "kernels/adam_step.hpp"
#include "optim/bias_corrections.hpp"
#include "optim/optimizer.hpp"

namespace stella {

class SparseAdam : public SparseOptimizer {
 public:
  SparseAdam(const GroupSettings& settings, std::size_t total_blocks);
  bool takes(OptimizerKind kind) const override { return kind != OptimizerKind::sgd; }
  void step(const SparseGradient& gradient, const GroupSettings& settings, std::span<float> weights) override;
  std::vector<StateTensor> state() override;
  bool allocate(std::string_view name) override;

 private:
  void step_one_by_one(const SparseGradient& gradient, const AdamStep& shared, float lr,
                       const AdamArrays& arrays);

  AlignedArray<float> exp_avg_;
  AlignedArray<float> exp_avg_sq_;
  AlignedArray<float> max_exp_avg_sq_;  // empty until amsgrad is on
  BiasCorrections corrections_;
};

}  // namespace stella
