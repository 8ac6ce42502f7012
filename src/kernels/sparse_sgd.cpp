#include "kernels/sparse_sgd.hpp"

#include <cstddef>

#include "kernels/block.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/step_count.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sparse_sgd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/sgd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Places [first, end) of the blocks.
template <bool has_momentum, class Ahead>
void sparse_sgd_stretch(std::span<const BlockId> blocks, std::size_t first, std::size_t end, Ahead ahead,
                        const float* gradient, const SgdStep& step, float* weights,
                        const BlockMomentum& momentum) {
  const hn::CappedTag<float, kBlock> d;
  const BlockMomentum own = momentum;  // local, so that no store can change it
  for (std::size_t k = first; k < end; ++k) {
    const LinesAhead lines = ahead(k);
    lines.load(weights);
    float take = 0;
    if constexpr (has_momentum) {
      lines.load(own.buffer);
      lines.load(own.steps, 1);
      take = count_step(own.steps[blocks[k]]) == 0 ? 1.0f : own.later_take;
    }
    const auto taken = hn::Set(d, take);
    const std::size_t block = std::size_t{blocks[k]} * kBlock;
    for (std::size_t i = 0; i < kBlock; i += hn::Lanes(d)) {
      const std::size_t at = block + i;
      const auto g = hn::LoadU(d, gradient + k * kBlock + i);
      sgd_update<has_momentum>(d, g, step, taken, weights + at, has_momentum ? own.buffer + at : nullptr);
    }
  }
}

template <bool has_momentum>
void sparse_sgd_blocks(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step,
                       float* weights, const BlockMomentum& momentum) {
  for_each_stretch(blocks, [&](std::size_t first, std::size_t end, auto ahead) HWY_ATTR {
    sparse_sgd_stretch<has_momentum>(blocks, first, end, ahead, gradient, step, weights, momentum);
  });
}

void sparse_sgd(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step, float* weights,
                const BlockMomentum* momentum) {
  if (momentum != nullptr) {
    sparse_sgd_blocks<true>(blocks, gradient, step, weights, *momentum);
  } else {
    sparse_sgd_blocks<false>(blocks, gradient, step, weights, {});
  }
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(sparse_sgd);

void sparse_sgd(std::span<const BlockId> blocks, const float* gradient, const SgdStep& step, float* weights,
                const BlockMomentum* momentum) {
  HWY_DYNAMIC_DISPATCH(sparse_sgd)(blocks, gradient, step, weights, momentum);
}

}  // namespace stella
#endif
