#include "kernels/finite.hpp"

#include <cassert>

#include "kernels/block.hpp"
#include "kernels/prefetch.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/finite.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Magnitudes in the order of their bits, in which NaN and infinity come last. As signed lanes: comparisons of
// those are what every target has.
template <class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> magnitudes(D d, const float* values) {
  const hn::RebindToSigned<D> di;
  return hn::And(hn::BitCast(di, hn::LoadU(d, values)), hn::Set(di, 0x7fffffff));
}

template <class D>
HWY_INLINE bool all_finite(D, hn::Vec<hn::RebindToSigned<D>> largest) {
  const hn::RebindToSigned<D> di;
  return hn::AllFalse(di, hn::Gt(largest, hn::Set(di, 0x7f7fffff)));  // the largest finite number's
}

// The place of the first bad one among the next `count`, a multiple of Lanes(d), or `count`.
template <class D>
std::size_t find_one_by_one(D d, const float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto finite = hn::IsFinite(hn::LoadU(d, values + i));
    if (!hn::AllTrue(d, finite)) return i + hn::FindFirstTrue(d, hn::Not(finite));
  }
  return count;
}

// The same, at first in groups of four vectors.
template <class D>
std::size_t find_nonfinite_run(D d, const float* values, std::size_t count) {
  const std::size_t lanes = hn::Lanes(d);
  std::size_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    const float* group = values + i;
    const auto largest = hn::Max(hn::Max(magnitudes(d, group), magnitudes(d, group + lanes)),
                                 hn::Max(magnitudes(d, group + 2 * lanes), magnitudes(d, group + 3 * lanes)));
    if (!all_finite(d, largest)) break;
  }
  return i + find_one_by_one(d, values + i, count - i);
}

std::size_t find_nonfinite(std::span<const float> values) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t tail = values.size() % hn::Lanes(d);
  const std::size_t body = values.size() - tail;
  const std::size_t found = find_nonfinite_run(d, values.data(), body);
  return found < body ? found : body + find_one_by_one(one, values.data() + body, tail);
}

template <class D>
HWY_INLINE bool finite_block(D d, const float* values) {
  auto largest = magnitudes(d, values);
  for (std::size_t i = hn::Lanes(d); i < kBlock; i += hn::Lanes(d))
    largest = hn::Max(largest, magnitudes(d, values + i));
  return all_finite(d, largest);
}

std::size_t find_nonfinite_block(std::span<const BlockId> blocks, std::size_t block, const float* values) {
  const hn::CappedTag<float, kBlock> d;
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    prefetch_block(blocks, k, values, block);
    for (std::size_t part = 0; part < block; part += kBlock)
      if (!finite_block(d, values + blocks[k] * block + part)) return k;
  }
  return blocks.size();
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(find_nonfinite);
HWY_EXPORT(find_nonfinite_block);

std::size_t find_nonfinite(std::span<const float> values) {
  return HWY_DYNAMIC_DISPATCH(find_nonfinite)(values);
}

std::size_t find_nonfinite_block(std::span<const BlockId> blocks, std::size_t block, const float* values) {
  assert(block % kBlock == 0);
  return HWY_DYNAMIC_DISPATCH(find_nonfinite_block)(blocks, block, values);
}

}  // namespace stella
#endif
