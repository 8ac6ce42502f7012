#include "kernels/collect.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/collect.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Reads scores as bits without their sign: comparisons of signed lanes are what every target has.
template <class D>
struct Collector {
  HWY_INLINE auto enough(std::size_t block) const {
    return hn::Gt(hn::And(hn::BitCast(hn::RebindToSigned<D>(), hn::LoadU(D(), scores + block)),
                          hn::Set(hn::RebindToSigned<D>(), static_cast<std::int32_t>(kScoreBits))),
                  hn::Set(hn::RebindToSigned<D>(), static_cast<std::int32_t>(least) - 1));
  }

  // Lanes count for themselves: -1 for each that is enough.
  std::size_t counted(std::size_t first, std::size_t end) const {
    const hn::RebindToSigned<D> di;
    auto sum = hn::Zero(di);
    for (std::size_t block = first; block < end; block += hn::MaxLanes(D()))
      sum = hn::Add(sum, hn::VecFromMask(di, enough(block)));
    return static_cast<std::size_t>(-std::int64_t{hn::GetLane(hn::SumOfLanes(di, sum))});
  }

  // The blocks of one vector. Bit by bit: Highway 1.0.3 copies a table to the stack for every Compress().
  HWY_INLINE void collect(std::size_t block) {
    std::uint8_t bytes[sizeof(std::uint64_t)] = {};
    hn::StoreMaskBits(hn::RebindToSigned<D>(), enough(block), bytes);
    std::uint64_t bits;
    std::memcpy(&bits, bytes, sizeof bits);
    for (; bits != 0; bits &= bits - 1)
      ids[count++] = static_cast<BlockId>(block + static_cast<std::size_t>(std::countr_zero(bits)));
  }

  // A run whose length is a multiple of Lanes. Four vectors are looked at together: nearly always none of
  // theirs is enough.
  void collect(std::size_t first, std::size_t end) {
    constexpr std::size_t kLanes = hn::MaxLanes(D());
    const hn::RebindToSigned<D> di;
    std::size_t block = first;
    for (; block + 4 * kLanes <= end; block += 4 * kLanes) {
      const auto any = hn::Or(hn::Or(enough(block), enough(block + kLanes)),
                              hn::Or(enough(block + 2 * kLanes), enough(block + 3 * kLanes)));
      if (hn::AllFalse(di, any)) continue;
      for (std::size_t i = 0; i < 4; ++i) collect(block + i * kLanes);
    }
    for (; block < end; block += kLanes) collect(block);
  }

  const float* scores;
  std::uint32_t least;
  BlockId* ids;
  std::size_t count = 0;
};

std::size_t collect_at_least(std::span<const float> scores, std::uint32_t least, BlockId* ids) {
  using Wide = hn::ScalableTag<float>;
  static_assert(hn::MaxLanes(Wide()) <= 64);
  const std::size_t body = scores.size() - scores.size() % hn::MaxLanes(Wide());
  Collector<Wide> wide{scores.data(), least, ids};
  wide.collect(0, body);
  Collector<hn::CappedTag<float, 1>> narrow{scores.data(), least, ids, wide.count};
  narrow.collect(body, scores.size());
  return narrow.count;
}

std::size_t count_at_least(std::span<const float> scores, std::uint32_t least) {
  using Wide = hn::ScalableTag<float>;
  constexpr std::size_t kAtATime = std::size_t{1} << 28;  // a sum of lanes stays an int32
  std::size_t count = 0;
  for (; !scores.empty(); scores = scores.subspan(std::min(kAtATime, scores.size()))) {
    const std::size_t size = std::min(kAtATime, scores.size());
    const std::size_t body = size - size % hn::MaxLanes(Wide());
    count += Collector<Wide>{scores.data(), least, nullptr}.counted(0, body);
    count += Collector<hn::CappedTag<float, 1>>{scores.data(), least, nullptr}.counted(body, size);
  }
  return count;
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(collect_at_least);
HWY_EXPORT(count_at_least);

std::size_t collect_at_least(std::span<const float> scores, std::uint32_t least, BlockId* ids) {
  assert(least <= kScoreBits);
  return HWY_DYNAMIC_DISPATCH(collect_at_least)(scores, least, ids);
}

std::size_t count_at_least(std::span<const float> scores, std::uint32_t least) {
  assert(least <= kScoreBits);
  return HWY_DYNAMIC_DISPATCH(count_at_least)(scores, least);
}

}  // namespace stella
#endif
