// SGD's formulas on vectors: what sparse_sgd and dense_sgd share. Included once for each target.
#include "kernels/sgd_step.hpp"

#if defined(STELLA_KERNELS_SGD_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef STELLA_KERNELS_SGD_INL
#undef STELLA_KERNELS_SGD_INL
#else
#define STELLA_KERNELS_SGD_INL
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Steps Lanes(d) elements at the two pointers, of which `momentum_buffer` is only read with has_momentum;
// returns the new weights, which are stored too. `step` is by value: no store can change it, so its numbers
// stay in registers over a loop.
template <bool has_momentum, class D>
HWY_INLINE hn::Vec<D> sgd_update(D d, hn::Vec<D> gradient, const SgdStep step, hn::Vec<D> take,
                                 float* weights, float* momentum_buffer) {
  const auto momentum = hn::Set(d, step.momentum);
  const auto sign = hn::Set(d, step.maximize ? -1.0f : 1.0f);
  const auto w = hn::LoadU(d, weights);
  const auto g = hn::Add(hn::Mul(sign, gradient), hn::Mul(hn::Set(d, step.weight_decay), w));
  auto direction = g;
  if constexpr (has_momentum) {
    const auto m = hn::Add(hn::Mul(momentum, hn::LoadU(d, momentum_buffer)), hn::Mul(take, g));
    hn::StoreU(m, d, momentum_buffer);
    direction = step.nesterov ? hn::Add(g, hn::Mul(momentum, m)) : m;
  }
  const auto updated = hn::Sub(w, hn::Mul(hn::Set(d, step.lr), direction));
  hn::StoreU(updated, d, weights);
  return updated;
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
