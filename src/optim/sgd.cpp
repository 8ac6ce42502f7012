#include "optim/sgd.hpp"

#include <cassert>

#include "kernels/block.hpp"
#include "kernels/dense_sgd.hpp"
#include "kernels/sparse_sgd.hpp"
#include "optim/settings.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr const char* kMomentum = "momentum_buffer";

}  // namespace

SparseSgd::SparseSgd(const GroupSettings& settings, std::size_t total_blocks)
    : SparseOptimizer(total_blocks) {
  if (settings.momentum != 0) allocate(kMomentum);
}

bool SparseSgd::allocate(std::string_view name) {
  if (name != kMomentum) return false;
  if (momentum_buffer_.empty()) momentum_buffer_ = AlignedArray<float>(total_blocks() * kBlock);
  return true;
}

void SparseSgd::step(const SparseGradient& gradient, const GroupSettings& settings,
                     std::span<float> weights) {
  if (!takes(settings.kind)) {
    throw Error(ErrorCode::invalid_argument,
                "an sgd optimizer was given settings of kind " + std::string(to_string(settings.kind)));
  }
  validate(settings);
  assert(weights.size() == total_blocks() * kBlock);
  assert(gradient.values.size() == gradient.blocks.size() * kBlock);
  assert(gradient.blocks.empty() || gradient.blocks.back() < total_blocks());

  const bool with_momentum = settings.momentum != 0;
  if (with_momentum) allocate(kMomentum);
  const SgdStep step{.lr = static_cast<float>(settings.lr),
                     .momentum = static_cast<float>(settings.momentum),
                     .weight_decay = static_cast<float>(settings.weight_decay),
                     .nesterov = settings.nesterov,
                     .maximize = settings.maximize};
  const BlockMomentum momentum{momentum_buffer_.data(), counts(), static_cast<float>(1 - settings.dampening)};
  const bool everything = gradient.blocks.size() == total_blocks();
  const auto t = everything && with_momentum ? count_all() : std::nullopt;
  if (everything && (t || !with_momentum)) {  // the same bits, in less time
    dense_sgd(gradient.values.span(), step,
              {.gradient_scale = 1, .take = t.value_or(1) == 1 ? 1.0f : momentum.later_take},
              {.weights = weights.data(), .momentum_buffer = with_momentum ? momentum.buffer : nullptr},
              nullptr);
  } else {
    sparse_sgd(gradient.blocks, gradient.values.data(), step, weights.data(),
               with_momentum ? &momentum : nullptr);
  }
}

std::vector<StateTensor> SparseSgd::state() {
  if (momentum_buffer_.empty()) return {};
  return {{kMomentum, momentum_buffer_}};
}

}  // namespace stella
