#include "kernels/sparse_adam.hpp"

#include <algorithm>
#include <cassert>
#include <cstddef>

#include "kernels/block.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/step_count.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sparse_adam.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/adam-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Places [first, end) of the blocks.
template <bool amsgrad, class Ahead>
void sparse_adam_stretch(std::span<const BlockId> blocks, std::size_t first, std::size_t end, Ahead ahead,
                         const float* gradient, const AdamStep& step, const BlockCorrections& corrections,
                         const AdamArrays& arrays) {
  const hn::CappedTag<float, kBlock> d;
  // Local, so that no store can change them.
  std::uint32_t* const steps = corrections.steps;
  const float* const bias1 = corrections.bias1.data();
  const float* const root_of_bias2 = corrections.root_of_bias2.data();
  const std::size_t last1 = corrections.bias1.size() - 1;
  const std::size_t last2 = corrections.root_of_bias2.size() - 1;
  const auto lr = hn::Set(d, corrections.lr);
  for (std::size_t k = first; k < end; ++k) {
    const LinesAhead lines = ahead(k);
    lines.load(steps, 1);
    lines.load(arrays.weights);
    lines.load(arrays.exp_avg);
    lines.load(arrays.exp_avg_sq);
    if constexpr (amsgrad) lines.load(arrays.max_exp_avg_sq);
    const std::size_t before = count_step(steps[blocks[k]]);
    const auto step_size = hn::Div(lr, hn::Set(d, bias1[std::min(before, last1)]));
    const auto root = hn::Set(d, root_of_bias2[std::min(before, last2)]);
    const std::size_t at = std::size_t{blocks[k]} * kBlock;
    for (std::size_t i = 0; i < kBlock; i += hn::Lanes(d)) {
      const auto g = hn::LoadU(d, gradient + k * kBlock + i);
      adam_update<amsgrad>(d, g, step, step_size, root, arrays, at + i);
    }
  }
}

template <bool amsgrad>
void sparse_adam_blocks(std::span<const BlockId> blocks, const float* gradient, const AdamStep& step,
                        const BlockCorrections& corrections, const AdamArrays& arrays) {
  for_each_stretch(blocks, [&](std::size_t first, std::size_t end, auto ahead) HWY_ATTR {
    sparse_adam_stretch<amsgrad>(blocks, first, end, ahead, gradient, step, corrections, arrays);
  });
}

void sparse_adam(std::span<const BlockId> blocks, const float* gradient, const AdamStep& step,
                 const BlockCorrections& corrections, const AdamArrays& arrays) {
  const auto run = arrays.max_exp_avg_sq != nullptr ? sparse_adam_blocks<true> : sparse_adam_blocks<false>;
  run(blocks, gradient, step, corrections, arrays);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(sparse_adam);

void sparse_adam(std::span<const BlockId> blocks, const float* gradient, const AdamStep& step,
                 const BlockCorrections& corrections, const AdamArrays& arrays) {
  assert(!corrections.bias1.empty() && !corrections.root_of_bias2.empty());
  HWY_DYNAMIC_DISPATCH(sparse_adam)(blocks, gradient, step, corrections, arrays);
}

}  // namespace stella
#endif
