// torch.optim.Adam and AdamW on sparse gradients: coupled or decoupled weight decay, amsgrad.
#pragma once

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
  void count_and_correct(const SparseGradient& gradient, const GroupSettings& settings);

  AlignedArray<float> exp_avg_;
  AlignedArray<float> exp_avg_sq_;
  AlignedArray<float> max_exp_avg_sq_;  // empty until amsgrad is on
  BiasCorrections corrections_;
  std::vector<float> step_size_;      // scratch, one per block of the gradient
  std::vector<float> root_of_bias2_;  // scratch, one per block of the gradient
};

}  // namespace stella
