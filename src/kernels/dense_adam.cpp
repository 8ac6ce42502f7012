#include "kernels/dense_adam.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/dense_adam.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/adam-inl.hpp"
#include "kernels/half-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Elements `first` to `end`, a multiple of Lanes(d).
template <bool amsgrad, class D, class T>
void dense_adam_run(D d, const T* gradient, std::size_t first, std::size_t end, const AdamStep& step,
                    const DenseCorrections& corrections, const AdamArrays& arrays, Bf16* bf16_weights) {
  const auto step_size = hn::Set(d, corrections.step_size);
  const auto root_of_bias2 = hn::Set(d, corrections.root_of_bias2);
  const auto scale = hn::Set(d, corrections.gradient_scale);
  for (std::size_t i = first; i < end; i += hn::Lanes(d)) {
    const auto g = hn::Mul(load_fp32(d, gradient + i), scale);
    const auto w = adam_update<amsgrad>(d, g, step, step_size, root_of_bias2, arrays, i);
    if (bf16_weights != nullptr) {
      store_upper(d, rounded_to_bf16(d, w), reinterpret_cast<std::uint16_t*>(bf16_weights + i));
    }
  }
}

template <class T>
void dense_adam_all(std::span<const T> gradient, const AdamStep& step, const DenseCorrections& corrections,
                    const AdamArrays& arrays, Bf16* bf16_weights) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t body = gradient.size() - gradient.size() % hn::Lanes(d);
  const auto run = [&]<bool amsgrad>() {
    dense_adam_run<amsgrad>(d, gradient.data(), 0, body, step, corrections, arrays, bf16_weights);
    dense_adam_run<amsgrad>(one, gradient.data(), body, gradient.size(), step, corrections, arrays,
                            bf16_weights);
  };
  arrays.max_exp_avg_sq != nullptr ? run.template operator()<true>() : run.template operator()<false>();
}

void dense_adam_fp32(std::span<const float> gradient, const AdamStep& step,
                     const DenseCorrections& corrections, const AdamArrays& arrays, Bf16* bf16_weights) {
  dense_adam_all(gradient, step, corrections, arrays, bf16_weights);
}
void dense_adam_bf16(std::span<const Bf16> gradient, const AdamStep& step,
                     const DenseCorrections& corrections, const AdamArrays& arrays, Bf16* bf16_weights) {
  dense_adam_all(gradient, step, corrections, arrays, bf16_weights);
}
void dense_adam_fp16(std::span<const Fp16> gradient, const AdamStep& step,
                     const DenseCorrections& corrections, const AdamArrays& arrays, Bf16* bf16_weights) {
  dense_adam_all(gradient, step, corrections, arrays, bf16_weights);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(dense_adam_fp32);
HWY_EXPORT(dense_adam_bf16);
HWY_EXPORT(dense_adam_fp16);

void dense_adam(std::span<const float> gradient, const AdamStep& step, const DenseCorrections& corrections,
                const AdamArrays& arrays, Bf16* bf16_weights) {
  HWY_DYNAMIC_DISPATCH(dense_adam_fp32)(gradient, step, corrections, arrays, bf16_weights);
}
void dense_adam(std::span<const Bf16> gradient, const AdamStep& step, const DenseCorrections& corrections,
                const AdamArrays& arrays, Bf16* bf16_weights) {
  HWY_DYNAMIC_DISPATCH(dense_adam_bf16)(gradient, step, corrections, arrays, bf16_weights);
}
void dense_adam(std::span<const Fp16> gradient, const AdamStep& step, const DenseCorrections& corrections,
                const AdamArrays& arrays, Bf16* bf16_weights) {
  HWY_DYNAMIC_DISPATCH(dense_adam_fp16)(gradient, step, corrections, arrays, bf16_weights);
}

}  // namespace stella
#endif
