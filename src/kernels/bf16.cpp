#include "kernels/bf16.hpp"

#include <cassert>

#include "kernels/block.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/bf16.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#include "kernels/half-inl.hpp"

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// In both, `count` is a multiple of Lanes(d).
template <class D>
void from_bf16_run(D d, const std::uint16_t* from, std::size_t count, float* to) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<std::uint16_t, D> narrow;
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto bits = hn::ShiftLeft<16>(hn::PromoteTo(du, hn::LoadU(narrow, from + i)));
    hn::StoreU(hn::BitCast(d, bits), d, to + i);
  }
}

template <class D>
void take_bf16_run(D d, float* residual, std::size_t count, std::uint16_t* sent) {
  const hn::RebindToUnsigned<D> du;
  const auto largest = hn::BitCast(d, hn::Set(du, 0x7f7f0000));
  for (std::size_t i = 0; i < count; i += hn::Lanes(d)) {
    const auto value = hn::LoadU(d, residual + i);
    const auto bits = rounded_to_bf16(d, hn::Max(hn::Min(value, largest), hn::Neg(largest)));
    store_upper(d, bits, sent + i);
    hn::StoreU(hn::Sub(value, hn::BitCast(d, bits)), d, residual + i);
  }
}

void from_bf16(std::span<const std::uint16_t> from, float* to) {
  const hn::ScalableTag<float> d;
  const hn::CappedTag<float, 1> one;
  const std::size_t tail = from.size() % hn::Lanes(d);
  const std::size_t body = from.size() - tail;
  from_bf16_run(d, from.data(), body, to);
  from_bf16_run(one, from.data() + body, tail, to + body);
}

void take_blocks_bf16(std::span<const BlockId> blocks, std::size_t block, float* residual,
                      std::uint16_t* sent) {
  const hn::CappedTag<float, kBlock> d;
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    take_bf16_run(d, residual + blocks[k] * block, block, sent + k * block);
  }
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(from_bf16);
HWY_EXPORT(take_blocks_bf16);

void from_bf16(std::span<const std::uint16_t> from, float* to) { HWY_DYNAMIC_DISPATCH(from_bf16)(from, to); }

void take_blocks_bf16(std::span<const BlockId> blocks, std::size_t block, float* residual,
                      std::uint16_t* sent) {
  assert(block % kBlock == 0);
  HWY_DYNAMIC_DISPATCH(take_blocks_bf16)(blocks, block, residual, sent);
}

}  // namespace stella
#endif
