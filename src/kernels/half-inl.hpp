// Vectors of fp32 from memory that holds fp32, bf16 or fp16, all exactly. Included once for each target.
#include "kernels/half.hpp"

#if defined(STELLA_KERNELS_HALF_INL) == defined(HWY_TARGET_TOGGLE)
#ifdef STELLA_KERNELS_HALF_INL
#undef STELLA_KERNELS_HALF_INL
#else
#define STELLA_KERNELS_HALF_INL
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <class D>
HWY_INLINE hn::Vec<D> load_fp32(D d, const float* from) {
  return hn::LoadU(d, from);
}

template <class D>
HWY_INLINE hn::Vec<D> load_fp32(D d, const Bf16* from) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<std::uint16_t, D> narrow;
  const auto bits = hn::LoadU(narrow, reinterpret_cast<const std::uint16_t*>(from));
  return hn::BitCast(d, hn::ShiftLeft<16>(hn::PromoteTo(du, bits)));
}

template <class D>
HWY_INLINE hn::Vec<D> load_fp32(D d, const Fp16* from) {
  const hn::RebindToUnsigned<D> du;
  const hn::Rebind<hwy::float16_t, D> narrow;
  const hn::Rebind<std::uint16_t, D> narrow_bits;
  const auto finite = hn::PromoteTo(d, hn::LoadU(narrow, reinterpret_cast<const hwy::float16_t*>(from)));
  // Not every target's conversion knows infinities and NaNs.
  const auto bits = hn::PromoteTo(du, hn::LoadU(narrow_bits, reinterpret_cast<const std::uint16_t*>(from)));
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000)));
  const auto fraction = hn::And(bits, hn::Set(du, 0x03ff));
  const auto is_nan = hn::Ne(fraction, hn::Zero(du));
  const auto quiet = hn::IfThenElseZero(is_nan, hn::Set(du, 0x00400000));
  const auto other =
      hn::Or(hn::Or(sign, hn::Set(du, 0x7f800000)), hn::Or(hn::ShiftLeft<13>(fraction), quiet));
  const auto exponent = hn::And(bits, hn::Set(du, 0x7c00));
  const auto is_other = hn::RebindMask(d, hn::Eq(exponent, hn::Set(du, 0x7c00)));
  return hn::IfThenElse(is_other, hn::BitCast(d, other), finite);
}

// The bits of `v` rounded to bf16 (to nearest, ties to even), in the upper half of each 32-bit lane; the
// lower half is 0. Infinity stays, and so does what a NaN's upper half says.
template <class D, class V>
HWY_INLINE hn::Vec<hn::RebindToUnsigned<D>> rounded_to_bf16(D /*d*/, V v) {
  const hn::RebindToUnsigned<D> du;
  const auto bits = hn::BitCast(du, v);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1));
  const auto nearest = hn::Add(hn::Add(bits, hn::Set(du, 0x7fff)), odd);
  const auto quiet = hn::Or(bits, hn::Set(du, 0x00400000));
  const auto is_nan = hn::RebindMask(du, hn::IsNaN(v));
  return hn::And(hn::IfThenElse(is_nan, quiet, nearest), hn::Set(du, 0xffff0000));
}

// Stores the upper halves of the lanes of `bits`.
template <class D, class V>
HWY_INLINE void store_upper(D /*d*/, V bits, std::uint16_t* to) {
  const hn::Rebind<std::uint16_t, D> narrow;
  const hn::RebindToUnsigned<D> du;
  const hn::RebindToSigned<D> di;
  // DemoteTo saturates from signed lanes, and all of these are below 2^16.
  hn::StoreU(hn::DemoteTo(narrow, hn::BitCast(di, hn::ShiftRight<16>(hn::BitCast(du, bits)))), narrow, to);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#endif
