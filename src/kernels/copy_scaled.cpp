#include "kernels/copy_scaled.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/copy_scaled.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// `count` is a multiple of Lanes(d).
template <class D>
bool copy_scaled_run(D d, const float* from, std::size_t count, float scale, float* to) {
  const hn::RebindToSigned<D> di;
  const auto factor = hn::Set(d, scale);
  auto largest = hn::Zero(di);  // of the magnitudes' bit patterns, which sort like the magnitudes
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto scaled = hn::Mul(hn::LoadU(d, from + i), factor);
    hn::StoreU(scaled, d, to + i);
    largest = hn::Max(largest, hn::BitCast(di, hn::Abs(scaled)));
  }
  constexpr std::int32_t kInfinity = 0x7f800000;
  return hn::AllTrue(di, hn::Lt(largest, hn::Set(di, kInfinity)));
}

bool copy_scaled(std::span<const float> from, float scale, float* to) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t tail = from.size() % hn::Lanes(d);
  const std::size_t body = from.size() - tail;
  const bool body_finite = copy_scaled_run(d, from.data(), body, scale, to);
  const bool tail_finite = copy_scaled_run(one, from.data() + body, tail, scale, to + body);
  return body_finite && tail_finite;
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(copy_scaled);

bool copy_scaled(std::span<const float> from, float scale, float* to) {
  return HWY_DYNAMIC_DISPATCH(copy_scaled)(from, scale, to);
}

}  // namespace stella
#endif
