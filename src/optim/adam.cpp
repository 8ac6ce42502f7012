#include "optim/adam.hpp"

#include <cassert>

#include "kernels/block.hpp"
#include "kernels/dense_adam.hpp"
#include "kernels/sparse_adam.hpp"
#include "kernels/step_count.hpp"
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
  corrections_.set_betas(settings.beta1, settings.beta2);
  const auto lr = static_cast<float>(settings.lr);
  const bool in_tables = corrections_.reach(most_after_a_step());
  const bool everything = gradient.blocks.size() == total_blocks();
  if (const auto t = everything ? count_all() : std::nullopt) {  // the same bits, in less time
    const auto [bias1, root_of_bias2] = corrections_.at(*t);
    dense_adam(gradient.values.span(), shared,
               {.step_size = lr / bias1, .root_of_bias2 = root_of_bias2, .gradient_scale = 1}, arrays,
               nullptr);
  } else if (in_tables) {
    sparse_adam(gradient.blocks, gradient.values.data(), shared,
                {counts(), corrections_.bias1(), corrections_.root_of_bias2(), lr}, arrays);
  } else {
    step_one_by_one(gradient, shared, lr, arrays);
  }
}

// Where counts may have passed a million (restored ones, or calls of step() since) and a beta is so close to
// 1 that no table is long enough.
void SparseAdam::step_one_by_one(const SparseGradient& gradient, const AdamStep& shared, float lr,
                                 const AdamArrays& arrays) {
  for (std::size_t k = 0; k < gradient.blocks.size(); ++k) {
    std::uint32_t t = counts()[gradient.blocks[k]];
    count_step(t);
    const auto own = corrections_.at(t);
    sparse_adam(std::span(gradient.blocks).subspan(k, 1), gradient.values.data() + k * kBlock, shared,
                {counts(), {&own.bias1, 1}, {&own.root_of_bias2, 1}, lr}, arrays);
  }
}

std::vector<StateTensor> SparseAdam::state() {
  std::vector<StateTensor> tensors = {{"exp_avg", exp_avg_}, {"exp_avg_sq", exp_avg_sq_}};
  if (!max_exp_avg_sq_.empty()) tensors.push_back({kLargest, max_exp_avg_sq_});
  return tensors;
}

}  // namespace stella
