#include "kernels/hide.hpp"

#include <cstddef>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/hide.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Elements `first` to `end`, a multiple of Lanes(d).
template <class D>
void hide_run(D d, std::size_t first, std::size_t end, Shares shares, const float* common, float* own,
              float* hidden) {
  const auto part = hn::Set(d, shares.hidden), returned = hn::Set(d, shares.shown);
  for (std::size_t i = first; i < end; i += hn::Lanes(d)) {
    const auto before = hn::LoadU(d, own + i);
    const auto after = hn::Sub(before, hn::Mul(part, hn::Sub(before, hn::LoadU(d, common + i))));
    const auto aside = hn::Add(hn::LoadU(d, hidden + i), hn::Sub(before, after));
    const auto back = hn::Mul(returned, aside);
    hn::StoreU(hn::Add(after, back), d, own + i);
    hn::StoreU(hn::Sub(aside, back), d, hidden + i);
  }
}

void hide(Shares shares, const float* common, std::span<float> own, float* hidden) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t body = own.size() - own.size() % hn::Lanes(d);
  hide_run(d, 0, body, shares, common, own.data(), hidden);
  hide_run(one, body, own.size(), shares, common, own.data(), hidden);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(hide);

void hide(Shares shares, const float* common, std::span<float> own, float* hidden) {
  HWY_DYNAMIC_DISPATCH(hide)(shares, common, own, hidden);
}

}  // namespace stella
#endif
