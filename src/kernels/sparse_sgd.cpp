#include "kernels/sparse_sgd.hpp"

#include <cassert>

#include "kernels/block.hpp"
#include "kernels/prefetch.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sparse_sgd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/sgd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <bool has_momentum>
void sparse_sgd_blocks(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step,
                       std::span<const float> take, float* weights, float* momentum_buffer) {
  const hn::CappedTag<float, kBlock> d;
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    prefetch_block(blocks, k, weights);
    if constexpr (has_momentum) prefetch_block(blocks, k, momentum_buffer);
    const auto taken = hn::Set(d, has_momentum ? take[k] : 0.0f);
    const std::size_t block = std::size_t{blocks[k]} * kBlock;
    for (std::size_t i = 0; i < kBlock; i += hn::Lanes(d)) {
      const std::size_t at = block + i;
      const auto g = hn::LoadU(d, gradient + k * kBlock + i);
      float* momentum = has_momentum ? momentum_buffer + at : nullptr;
      sgd_update<has_momentum>(d, g, step, taken, weights + at, momentum);
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
