#include "kernels/dense_sgd.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dense_sgd.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/half-inl.hpp"
#include "kernels/sgd-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Elements `first` to `end`, a multiple of Lanes(d) apart.
template <bool has_momentum, class D, class T>
void dense_sgd_run(D d, const T* gradient, std::size_t first, std::size_t end, const SgdStep& step,
                   const DenseSgdScales& scales, const SgdArrays& arrays, Bf16* bf16_weights) {
  const auto scale = hn::Set(d, scales.gradient_scale);
  const auto take = hn::Set(d, scales.take);
  for (std::size_t i = first; i < end; i += hn::Lanes(d)) {
    const auto g = hn::Mul(load_fp32(d, gradient + i), scale);
    float* momentum_buffer = has_momentum ? arrays.momentum_buffer + i : nullptr;
    const auto w = sgd_update<has_momentum>(d, g, step, take, arrays.weights + i, momentum_buffer);
    if (bf16_weights != nullptr) {
      store_upper(d, rounded_to_bf16(d, w), reinterpret_cast<std::uint16_t*>(bf16_weights + i));
    }
  }
}

template <class T>
void dense_sgd_all(std::span<const T> gradient, const SgdStep& step, const DenseSgdScales& scales,
                   const SgdArrays& arrays, Bf16* bf16_weights) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t body = gradient.size() - gradient.size() % hn::Lanes(d);
  const auto run = [&]<bool has_momentum>() {
    dense_sgd_run<has_momentum>(d, gradient.data(), 0, body, step, scales, arrays, bf16_weights);
    dense_sgd_run<has_momentum>(one, gradient.data(), body, gradient.size(), step, scales, arrays,
                                bf16_weights);
  };
  arrays.momentum_buffer != nullptr ? run.template operator()<true>() : run.template operator()<false>();
}

void dense_sgd_fp32(std::span<const float> gradient, const SgdStep& step, const DenseSgdScales& scales,
                    const SgdArrays& arrays, Bf16* bf16_weights) {
  dense_sgd_all(gradient, step, scales, arrays, bf16_weights);
}
void dense_sgd_bf16(std::span<const Bf16> gradient, const SgdStep& step, const DenseSgdScales& scales,
                    const SgdArrays& arrays, Bf16* bf16_weights) {
  dense_sgd_all(gradient, step, scales, arrays, bf16_weights);
}
void dense_sgd_fp16(std::span<const Fp16> gradient, const SgdStep& step, const DenseSgdScales& scales,
                    const SgdArrays& arrays, Bf16* bf16_weights) {
  dense_sgd_all(gradient, step, scales, arrays, bf16_weights);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(dense_sgd_fp32);
HWY_EXPORT(dense_sgd_bf16);
HWY_EXPORT(dense_sgd_fp16);

void dense_sgd(std::span<const float> gradient, const SgdStep& step, const DenseSgdScales& scales,
               const SgdArrays& arrays, Bf16* bf16_weights) {
  HWY_DYNAMIC_DISPATCH(dense_sgd_fp32)(gradient, step, scales, arrays, bf16_weights);
}
void dense_sgd(std::span<const Bf16> gradient, const SgdStep& step, const DenseSgdScales& scales,
               const SgdArrays& arrays, Bf16* bf16_weights) {
  HWY_DYNAMIC_DISPATCH(dense_sgd_bf16)(gradient, step, scales, arrays, bf16_weights);
}
void dense_sgd(std::span<const Fp16> gradient, const SgdStep& step, const DenseSgdScales& scales,
               const SgdArrays& arrays, Bf16* bf16_weights) {
  HWY_DYNAMIC_DISPATCH(dense_sgd_fp16)(gradient, step, scales, arrays, bf16_weights);
}

}  // namespace stella
#endif
