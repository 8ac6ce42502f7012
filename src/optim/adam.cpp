#include "optim/adam.hpp"

#include <cassert>

#include "kernels/block.hpp"
#include "kernels/dense_adam.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/sparse_adam.hpp"
#include "optim/settings.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr const char* kLargest = "max_exp_avg_sq";

AdamStep shared_numbers(const GroupSettings& settings) {
  const bool decoupled = settings.kind == OptimizerKind::adamw;
  return {.shrink = decoupled ? static_cast<float>(1 - settings.lr * settings.weight_decay) : 1.0f,
          .weight_decay = decoupled ? 0.0f : static_cast<float>(settings.weight_decay),
          .beta1 = static_cast<float>(settings.beta1),
          .one_minus_beta1 = static_cast<float>(1 - settings.beta1),
          .beta2 = static_cast<float>(settings.beta2),
          .one_minus_beta2 = static_cast<float>(1 - settings.beta2),
          .eps = static_cast<float>(settings.eps),
          .maximize = settings.maximize};
}

}  // namespace

SparseAdam::SparseAdam(const GroupSettings& settings, std::size_t total_blocks)
    : SparseOptimizer(total_blocks),
      exp_avg_(total_blocks * kBlock),
      exp_avg_sq_(total_blocks * kBlock),
      corrections_(settings.beta1, settings.beta2) {
  if (settings.amsgrad) allocate(kLargest);
}

bool SparseAdam::allocate(std::string_view name) {
  if (name == kLargest && max_exp_avg_sq_.empty()) {
    max_exp_avg_sq_ = AlignedArray<float>(total_blocks() * kBlock);
  }
  return name == "exp_avg" || name == "exp_avg_sq" || name == kLargest;
}

void SparseAdam::forget_corrections(const GroupSettings& settings) {
  if (settings.beta1 != corrections_.beta1() || settings.beta2 != corrections_.beta2()) {
    corrections_ = BiasCorrections(settings.beta1, settings.beta2);
    known_ = {};
  }
  if (settings.lr != known_lr_) {
    known_lr_ = settings.lr;
    known_ = {};
  }
}

void SparseAdam::count_and_correct(const SparseGradient& gradient, const GroupSettings& settings) {
  const std::span<const BlockId> blocks = gradient.blocks;
  step_size_.resize(blocks.size());
  root_of_bias2_.resize(blocks.size());
  // Local, so that no store can change them: this loop costs as much as a few cache lines do.
  float* step_size = step_size_.data();
  float* root_of_bias2 = root_of_bias2_.data();
  Correction* known = known_.data();
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    prefetch_block(blocks, k, steps().data(), 1);
    const std::uint32_t t = count(blocks[k]);
    Correction& own = known[t % std::tuple_size_v<decltype(known_)>];
    if (own.t != t) {
      own = {t, static_cast<float>(settings.lr / corrections_.bias1(t)), corrections_.root_of_bias2(t)};
    }
    step_size[k] = own.step_size;
    root_of_bias2[k] = own.root_of_bias2;
  }
}

void SparseAdam::step(const SparseGradient& gradient, const GroupSettings& settings,
                      std::span<float> weights) {
  if (!takes(settings.kind)) {
    throw Error(ErrorCode::invalid_argument, "an adam optimizer was given settings of kind sgd");
  }
  validate(settings);
  assert(weights.size() == total_blocks() * kBlock);
  assert(gradient.values.size() == gradient.blocks.size() * kBlock);
  assert(gradient.blocks.empty() || gradient.blocks.back() < total_blocks());
  if (settings.amsgrad) allocate(kLargest);
  const AdamStep shared = shared_numbers(settings);
  const AdamArrays arrays{.weights = weights.data(),
                          .exp_avg = exp_avg_.data(),
                          .exp_avg_sq = exp_avg_sq_.data(),
                          .max_exp_avg_sq = settings.amsgrad ? max_exp_avg_sq_.data() : nullptr};
  forget_corrections(settings);
  const bool everything = gradient.blocks.size() == total_blocks();
  if (const auto t = everything ? count_all() : std::nullopt) {  // the same bits, in less time
    dense_adam(gradient.values.span(), shared,
               {.step_size = static_cast<float>(settings.lr / corrections_.bias1(*t)),
                .root_of_bias2 = corrections_.root_of_bias2(*t),
                .gradient_scale = 1},
               arrays, nullptr);
    return;
  }
  count_and_correct(gradient, settings);
  sparse_adam(gradient.blocks, gradient.values.data(), shared, {step_size_, root_of_bias2_}, arrays);
}

std::vector<StateTensor> SparseAdam::state() {
  std::vector<StateTensor> tensors = {{"exp_avg", exp_avg_}, {"exp_avg_sq", exp_avg_sq_}};
  if (!max_exp_avg_sq_.empty()) tensors.push_back({kLargest, max_exp_avg_sq_});
  return tensors;
}

}  // namespace stella
