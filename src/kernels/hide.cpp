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
void hide_run(D d, std::size_t first, std::size_t end, float share, const float* merged,
              const float* correction, const float* common, float* own, float* hidden) {
  const auto part = hn::Set(d, share);
  for (std::size_t i = first; i < end; i += hn::Lanes(d)) {
    const auto change = hn::LoadU(d, correction + i);
    const auto told = hn::Sub(hn::LoadU(d, merged + i), change);
    const auto hid = hn::LoadU(d, hidden + i);
    const auto alike = hn::Gt(hn::Mul(told, hid), hn::Zero(d));
    const auto less = hn::CopySign(hn::Min(hn::Abs(told), hn::Abs(hid)), told);
    const auto back = hn::IfThenElseZero(alike, less);
    const auto before = hn::Add(hn::LoadU(d, own + i), hn::Add(change, back));
    const auto after = hn::Sub(before, hn::Mul(part, hn::Sub(before, hn::LoadU(d, common + i))));
    hn::StoreU(after, d, own + i);
    hn::StoreU(hn::Add(hn::Sub(hid, back), hn::Sub(before, after)), d, hidden + i);
  }
}

void hide(float share, const float* merged, const float* correction, const float* common,
          std::span<float> own, float* hidden) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t body = own.size() - own.size() % hn::Lanes(d);
  hide_run(d, 0, body, share, merged, correction, common, own.data(), hidden);
  hide_run(one, body, own.size(), share, merged, correction, common, own.data(), hidden);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(hide);

void hide(float share, const float* merged, const float* correction, const float* common,
          std::span<float> own, float* hidden) {
  HWY_DYNAMIC_DISPATCH(hide)(share, merged, correction, common, own, hidden);
}

}  // namespace stella
#endif
