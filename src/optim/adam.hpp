// torch.optim.Adam and AdamW on sparse gradients: coupled or decoupled weight decay, amsgrad.
#pragma once

#include <array>

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
  // What a block at step t needs beside what all share.
  struct Correction {
    std::uint32_t t = 0;
    float step_size = 0;
    float root_of_bias2 = 0;
  };
  void forget_corrections(const GroupSettings& settings);
  void count_and_correct(const SparseGradient& gradient, const GroupSettings& settings);

  AlignedArray<float> exp_avg_;
  AlignedArray<float> exp_avg_sq_;
  AlignedArray<float> max_exp_avg_sq_;  // empty until amsgrad is on
  BiasCorrections corrections_;
  std::array<Correction, 256> known_;  // by t modulo their number; t = 0: none yet
  double known_lr_ = 0;                // that they are for
  std::vector<float> step_size_;       // scratch, one per block of the gradient
  std::vector<float> root_of_bias2_;   // scratch, one per block of the gradient
};

}  // namespace stella
