#include "kernels/collect.hpp"

#include <cassert>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/collect.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// The blocks from `first` of a run whose length is a multiple of Lanes(d).
template <class D>
std::size_t collect_run(D d, const float* scores, std::size_t first, std::size_t end, std::uint32_t least,
                        BlockId* ids) {
  const hn::RebindToSigned<D> di;  // comparisons of signed lanes are what every target has
  const hn::RebindToUnsigned<D> du;
  const auto magnitude = hn::Set(di, static_cast<std::int32_t>(kScoreBits));
  const auto below = hn::Set(di, static_cast<std::int32_t>(least) - 1);
  std::size_t count = 0;
  for (std::size_t block = first; block < end; block += hn::Lanes(d)) {
    const auto bits = hn::And(hn::BitCast(di, hn::LoadU(d, scores + block)), magnitude);
    const auto enough = hn::Gt(bits, below);
    if (hn::AllFalse(di, enough)) continue;  // nearly always
    const auto id = hn::Iota(du, static_cast<std::uint32_t>(block));
    count += hn::CompressStore(id, hn::RebindMask(du, enough), du, ids + count);
  }
  return count;
}

std::size_t collect_at_least(std::span<const float> scores, std::uint32_t least, BlockId* ids) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  static_assert(hn::MaxLanes(d) <= kCollectSlack);
  const std::size_t body = scores.size() - scores.size() % hn::Lanes(d);
  const std::size_t count = collect_run(d, scores.data(), 0, body, least, ids);
  return count + collect_run(one, scores.data(), body, scores.size(), least, ids + count);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(collect_at_least);

std::size_t collect_at_least(std::span<const float> scores, std::uint32_t least, BlockId* ids) {
  assert(least <= kScoreBits);
  return HWY_DYNAMIC_DISPATCH(collect_at_least)(scores, least, ids);
}

}  // namespace stella
#endif
