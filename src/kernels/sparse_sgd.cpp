#include "kernels/sparse_sgd.hpp"

#include <cassert>

#include "kernels/block.hpp"
#include "kernels/prefetch.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sparse_sgd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <bool has_momentum>
void sparse_sgd_blocks(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step,
                       std::span<const float> take, float* weights, float* momentum_buffer) {
  const hn::CappedTag<float, kBlock> d;
  const auto lr = hn::Set(d, step.lr);
  const auto momentum = hn::Set(d, step.momentum);
  const auto weight_decay = hn::Set(d, step.weight_decay);
  const auto sign = hn::Set(d, step.maximize ? -1.0f : 1.0f);
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    prefetch_block(blocks, k, weights);
    if constexpr (has_momentum) prefetch_block(blocks, k, momentum_buffer);
    const std::size_t at = std::size_t{blocks[k]} * kBlock;
    for (std::size_t i = 0; i < kBlock; i += hn::Lanes(d)) {
      const auto w = hn::LoadU(d, weights + at + i);
      const auto g =
          hn::Add(hn::Mul(sign, hn::LoadU(d, gradient + k * kBlock + i)), hn::Mul(weight_decay, w));
      auto direction = g;
      if constexpr (has_momentum) {
        const auto old = hn::LoadU(d, momentum_buffer + at + i);
        const auto m = hn::Add(hn::Mul(momentum, old), hn::Mul(hn::Set(d, take[k]), g));
        hn::StoreU(m, d, momentum_buffer + at + i);
        direction = step.nesterov ? hn::Add(g, hn::Mul(momentum, m)) : m;
      }
      hn::StoreU(hn::Sub(w, hn::Mul(lr, direction)), d, weights + at + i);
    }
  }
}

void sparse_sgd(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step,
                std::span<const float> take, float* weights, float* momentum_buffer) {
  const auto run = momentum_buffer != nullptr ? sparse_sgd_blocks<true> : sparse_sgd_blocks<false>;
  run(blocks, gradient, step, take, weights, momentum_buffer);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(sparse_sgd);

void sparse_sgd(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step,
                std::span<const float> take, float* weights, float* momentum_buffer) {
  assert(momentum_buffer == nullptr || take.size() == blocks.size());
  HWY_DYNAMIC_DISPATCH(sparse_sgd)(blocks, gradient, step, take, weights, momentum_buffer);
}

}  // namespace stella
#endif
