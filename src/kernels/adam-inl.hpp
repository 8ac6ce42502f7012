// Adam's formulas on vectors: what sparse_adam and dense_adam share. Included once for each target.
#include "kernels/adam_step.hpp"

#if defined(STELLA_KERNELS_ADAM_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef STELLA_KERNELS_ADAM_INL
#undef STELLA_KERNELS_ADAM_INL
#else
#define STELLA_KERNELS_ADAM_INL
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Steps Lanes(d) elements at `at` of the arrays; returns the new weights, which are stored too. `step` is by
// value: no store can change it, so its numbers stay in registers over a loop.
template <bool amsgrad, class D>
HWY_INLINE hn::Vec<D> adam_update(D d, hn::Vec<D> gradient, const AdamStep step, hn::Vec<D> step_size,
                                  hn::Vec<D> root_of_bias2, const AdamArrays& arrays, std::size_t at) {
  const auto w = hn::Mul(hn::LoadU(d, arrays.weights + at), hn::Set(d, step.shrink));
  const auto sign = hn::Set(d, step.maximize ? -1.0f : 1.0f);
  const auto g = hn::Add(hn::Mul(sign, gradient), hn::Mul(hn::Set(d, step.weight_decay), w));
  const auto old_m = hn::LoadU(d, arrays.exp_avg + at);
  const auto change = hn::Sub(g, old_m);
  const auto m = step.one_minus_beta1 >= 0.5f
                     ? hn::Sub(g, hn::Mul(hn::Set(d, step.beta1), change))
                     : hn::Add(old_m, hn::Mul(hn::Set(d, step.one_minus_beta1), change));
  hn::StoreU(m, d, arrays.exp_avg + at);
  auto v = hn::Add(hn::Mul(hn::Set(d, step.beta2), hn::LoadU(d, arrays.exp_avg_sq + at)),
                   hn::Mul(hn::Mul(hn::Set(d, step.one_minus_beta2), g), g));
  hn::StoreU(v, d, arrays.exp_avg_sq + at);
  if constexpr (amsgrad) {
    v = hn::Max(v, hn::LoadU(d, arrays.max_exp_avg_sq + at));
    hn::StoreU(v, d, arrays.max_exp_avg_sq + at);
  }
  const auto denominator = hn::Add(hn::Div(hn::Sqrt(v), root_of_bias2), hn::Set(d, step.eps));
  const auto updated = hn::Sub(w, hn::Div(hn::Mul(step_size, m), denominator));
  hn::StoreU(updated, d, arrays.weights + at);
  return updated;
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
