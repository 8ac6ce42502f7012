#include "kernels/sparse_adam.hpp"

#include <cassert>

#include "kernels/block.hpp"
#include "kernels/prefetch.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/sparse_adam.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <bool amsgrad>
void sparse_adam_blocks(std::span<const BlockId> blocks, const float* gradient, const AdamStep& step,
                        const BlockCorrections& corrections, const AdamArrays& arrays) {
  const hn::CappedTag<float, kBlock> d;
  const auto shrink = hn::Set(d, step.shrink);
  const auto weight_decay = hn::Set(d, step.weight_decay);
  const auto beta1 = hn::Set(d, step.beta1);
  const auto one_minus_beta1 = hn::Set(d, step.one_minus_beta1);
  const auto beta2 = hn::Set(d, step.beta2);
  const auto one_minus_beta2 = hn::Set(d, step.one_minus_beta2);
  const auto eps = hn::Set(d, step.eps);
  const auto sign = hn::Set(d, step.maximize ? -1.0f : 1.0f);
  const bool nearer_to_gradient = step.one_minus_beta1 >= 0.5f;
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    prefetch_block(blocks, k, arrays.weights);
    prefetch_block(blocks, k, arrays.exp_avg);
    prefetch_block(blocks, k, arrays.exp_avg_sq);
    if constexpr (amsgrad) prefetch_block(blocks, k, arrays.max_exp_avg_sq);
    const auto step_size = hn::Set(d, corrections.step_size[k]);
    const auto root_of_bias2 = hn::Set(d, corrections.root_of_bias2[k]);
    const std::size_t at = std::size_t{blocks[k]} * kBlock;
    for (std::size_t i = 0; i < kBlock; i += hn::Lanes(d)) {
      const auto w = hn::Mul(hn::LoadU(d, arrays.weights + at + i), shrink);
      const auto g =
          hn::Add(hn::Mul(sign, hn::LoadU(d, gradient + k * kBlock + i)), hn::Mul(weight_decay, w));
      const auto old_m = hn::LoadU(d, arrays.exp_avg + at + i);
      const auto change = hn::Sub(g, old_m);
      const auto m = nearer_to_gradient ? hn::Sub(g, hn::Mul(beta1, change))
                                        : hn::Add(old_m, hn::Mul(one_minus_beta1, change));
      hn::StoreU(m, d, arrays.exp_avg + at + i);
      auto v = hn::Add(hn::Mul(beta2, hn::LoadU(d, arrays.exp_avg_sq + at + i)),
                       hn::Mul(hn::Mul(one_minus_beta2, g), g));
      hn::StoreU(v, d, arrays.exp_avg_sq + at + i);
      if constexpr (amsgrad) {
        v = hn::Max(v, hn::LoadU(d, arrays.max_exp_avg_sq + at + i));
        hn::StoreU(v, d, arrays.max_exp_avg_sq + at + i);
      }
      const auto denominator = hn::Add(hn::Div(hn::Sqrt(v), root_of_bias2), eps);
      hn::StoreU(hn::Sub(w, hn::Div(hn::Mul(step_size, m), denominator)), d, arrays.weights + at + i);
    }
  }
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
  assert(corrections.step_size.size() == blocks.size() && corrections.root_of_bias2.size() == blocks.size());
  HWY_DYNAMIC_DISPATCH(sparse_adam)(blocks, gradient, step, corrections, arrays);
}

}  // namespace stella
#endif
