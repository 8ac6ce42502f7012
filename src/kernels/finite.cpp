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

// `count` is a multiple of Lanes(d); so is the answer unless something was found.
template <class D>
std::size_t find_nonfinite_run(D d, const float* values, std::size_t count) {
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto finite = hn::IsFinite(hn::LoadU(d, values + i));
    if (!hn::AllTrue(d, finite)) return i + hn::FindFirstTrue(d, hn::Not(finite));
  }
  return count;
}

std::size_t find_nonfinite(std::span<const float> values) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t tail = values.size() % hn::Lanes(d);
  const std::size_t body = values.size() - tail;
  const std::size_t found = find_nonfinite_run(d, values.data(), body);
  return found < body ? found : body + find_nonfinite_run(one, values.data() + body, tail);
}

std::size_t find_nonfinite_block(std::span<const BlockId> blocks, std::size_t block, const float* values) {
  const hn::CappedTag<float, kBlock> d;
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    prefetch_block(blocks, k, values, block);
    if (find_nonfinite_run(d, values + blocks[k] * block, block) != block) return k;
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
