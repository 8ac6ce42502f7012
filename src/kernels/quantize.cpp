#include "kernels/quantize.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

#include "kernels/block.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/quantize.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

#ifndef STELLA_KERNELS_QUANTIZE_ONCE  // what is the same for all targets
#define STELLA_KERNELS_QUANTIZE_ONCE
namespace stella {

static_assert(std::endian::native == std::endian::little);

// level(c) = kScale<bits> * c + kLowest<bits>
template <unsigned bits>
inline constexpr std::int32_t kScale = bits == 1   ? -2
                                       : bits == 2 ? 2
                                                   : 1;
template <unsigned bits>
inline constexpr std::int32_t kLowest = bits == 1   ? 1
                                        : bits == 2 ? -3
                                                    : -(1 << (bits - 1));

// Eight codes, one in each byte of `wide`, side by side in the lowest 8 * bits.
template <unsigned bits>
constexpr std::uint64_t pack(std::uint64_t wide) {
  if constexpr (bits == 4) {
    wide = (wide | wide >> 4) & 0x00ff00ff00ff00ff;
    wide = (wide | wide >> 8) & 0x0000ffff0000ffff;
    wide = (wide | wide >> 16) & 0x00000000ffffffff;
  } else if constexpr (bits == 2) {
    wide = (wide | wide >> 6) & 0x000f000f000f000f;
    wide = (wide | wide >> 12) & 0x000000ff000000ff;
    wide = (wide | wide >> 24) & 0x000000000000ffff;
  } else if constexpr (bits == 1) {
    wide = (wide | wide >> 7) & 0x0003000300030003;
    wide = (wide | wide >> 14) & 0x0000000f0000000f;
    wide = (wide | wide >> 28) & 0x00000000000000ff;
  }
  return wide;
}

template <unsigned bits>
constexpr std::uint64_t unpack(std::uint64_t packed) {
  if constexpr (bits == 4) {
    packed = (packed | packed << 16) & 0x0000ffff0000ffff;
    packed = (packed | packed << 8) & 0x00ff00ff00ff00ff;
    packed = (packed | packed << 4) & 0x0f0f0f0f0f0f0f0f;
  } else if constexpr (bits == 2) {
    packed = (packed | packed << 24) & 0x000000ff000000ff;
    packed = (packed | packed << 12) & 0x000f000f000f000f;
    packed = (packed | packed << 6) & 0x0303030303030303;
  } else if constexpr (bits == 1) {
    packed = (packed | packed << 28) & 0x0000000f0000000f;
    packed = (packed | packed << 14) & 0x0003000300030003;
    packed = (packed | packed << 7) & 0x0101010101010101;
  }
  return packed;
}

}  // namespace stella
#endif

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// What is left of a block when its halves, and the halves of those, have been combined.
struct Four {
  float lane[4];
};

#if HWY_TARGET == HWY_SCALAR  // one lane, and no operations across lanes

template <class Combine>
HWY_INLINE Four fold(const float* x, Combine combine) {
  Four t;
  for (std::size_t j = 0; j < 4; ++j) {
    t.lane[j] = combine(combine(std::abs(x[j]), std::abs(x[j + 8])),
                        combine(std::abs(x[j + 4]), std::abs(x[j + 12])));
  }
  return t;
}

HWY_INLINE Four fold_sum(const float* x) {
  return fold(x, [](float a, float b) { return a + b; });
}
HWY_INLINE Four fold_max(const float* x) {
  return fold(x, [](float a, float b) { return std::max(a, b); });
}

#else

template <class Combine>
HWY_INLINE Four fold(const float* x, Combine combine) {
  const hn::CappedTag<float, 4> d;
  const auto magnitude = [&](std::size_t at) HWY_ATTR { return hn::Abs(hn::LoadU(d, x + at)); };
  Four t;
  hn::StoreU(combine(combine(magnitude(0), magnitude(8)), combine(magnitude(4), magnitude(12))), d, t.lane);
  return t;
}

HWY_INLINE Four fold_sum(const float* x) {
  return fold(x, [](auto a, auto b) HWY_ATTR { return hn::Add(a, b); });
}
HWY_INLINE Four fold_max(const float* x) {
  return fold(x, [](auto a, auto b) HWY_ATTR { return hn::Max(a, b); });
}

#endif

void block_maxima(std::span<const BlockId> blocks, std::size_t block, const float* values, float* maxima) {
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    const float* x = values + blocks[k] * block;
    float largest = 0;
    for (std::size_t i = 0; i < block; i += kBlock) {
      const Four t = fold_max(x + i);
      largest = std::max({largest, t.lane[0], t.lane[1], t.lane[2], t.lane[3]});
    }
    maxima[k] = largest;
  }
}

void block_means(std::span<const BlockId> blocks, std::size_t block, const float* values, float* means) {
  const float share = 1.0f / static_cast<float>(block);
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    const float* x = values + blocks[k] * block;
    float sum = 0;
    for (std::size_t i = 0; i < block; i += kBlock) {
      const Four t = fold_sum(x + i);
      sum += (t.lane[0] + t.lane[2]) + (t.lane[1] + t.lane[3]);
    }
    means[k] = sum * share;
  }
}

// The codes of Lanes(d) values, which become what the codes do not say.
template <unsigned bits, class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> take_codes(D d, hn::Vec<D> step, float* values) {
  const hn::RebindToSigned<D> di;
  const auto x = hn::LoadU(d, values);
  hn::Vec<hn::RebindToSigned<D>> code;
  if constexpr (bits == 1) {
    code = hn::BitCast(di, hn::ShiftRight<31>(hn::BitCast(hn::RebindToUnsigned<D>(), x)));
  } else if constexpr (bits == 2) {
    const auto twice = hn::Add(step, step);
    const auto count = [&](auto limit) HWY_ATTR {
      return hn::VecFromMask(di, hn::RebindMask(di, hn::Ge(x, limit)));  // -1 where it holds
    };
    code = hn::Neg(hn::Add(hn::Add(count(hn::Neg(twice)), count(hn::Zero(d))), count(twice)));
  } else {
    // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the lowest bits.
    const auto most = hn::Set(d, static_cast<float>((1 << (bits - 1)) - 1));
    const auto shift = hn::Set(d, 12582912.0f);
    const auto level = hn::Max(hn::Min(hn::Div(x, step), most), hn::Neg(most));
    const auto integer = hn::Sub(hn::BitCast(di, hn::Add(level, shift)), hn::BitCast(di, shift));
    code = hn::Sub(integer, hn::Set(di, kLowest<bits>));
  }
  const auto level = hn::Add(hn::Mul(code, hn::Set(di, kScale<bits>)), hn::Set(di, kLowest<bits>));
  hn::StoreU(hn::Sub(x, hn::Mul(hn::ConvertTo(d, level), step)), d, values);
  return code;
}

template <unsigned bits>
void take_blocks(std::span<const BlockId> blocks, std::size_t block, const float* steps, float* residual,
                 std::uint8_t* codes) {
  const hn::CappedTag<float, 8> d;
  const hn::Rebind<std::uint8_t, decltype(d)> bytes;
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    float* values = residual + blocks[k] * block;
    std::uint8_t* to = codes + k * code_bytes(bits, block);
    if (steps[k] == 0) {
      std::memset(to, 0, code_bytes(bits, block));
      continue;
    }
    const auto step = hn::Set(d, steps[k]);
    for (std::size_t i = 0; i < block; i += 8, to += bits) {
      alignas(8) std::uint8_t wide[8];
      for (std::size_t j = 0; j < 8; j += hn::Lanes(d)) {
        hn::StoreU(hn::DemoteTo(bytes, take_codes<bits>(d, step, values + i + j)), bytes, wide + j);
      }
      std::uint64_t eight;
      std::memcpy(&eight, wide, sizeof eight);
      eight = pack<bits>(eight);
      std::memcpy(to, &eight, bits);
    }
  }
}

template <unsigned bits>
void values_of(const std::uint8_t* codes, std::span<const float> steps, std::size_t block, float* values) {
  const hn::CappedTag<float, 8> d;
  const hn::RebindToSigned<decltype(d)> di;
  const hn::Rebind<std::uint8_t, decltype(d)> bytes;
  const auto scale = hn::Set(di, kScale<bits>);
  const auto lowest = hn::Set(di, kLowest<bits>);
  for (const float one : steps) {
    const auto step = hn::Set(d, one);
    const bool empty = one == 0;
    for (std::size_t i = 0; i < block; i += 8, codes += bits, values += 8) {
      std::uint64_t eight = 0;
      std::memcpy(&eight, codes, bits);
      eight = unpack<bits>(eight);
      alignas(8) std::uint8_t wide[8];
      std::memcpy(wide, &eight, sizeof wide);
      for (std::size_t j = 0; j < 8; j += hn::Lanes(d)) {
        const auto code = hn::PromoteTo(di, hn::LoadU(bytes, wide + j));
        const auto level = hn::ConvertTo(d, hn::Add(hn::Mul(code, scale), lowest));
        hn::StoreU(empty ? hn::Zero(d) : hn::Mul(level, step), d, values + j);
      }
    }
  }
}

void take_blocks_quantized(unsigned bits, std::span<const BlockId> blocks, std::size_t block,
                           const float* steps, float* residual, std::uint8_t* codes) {
  const auto take = bits == 1   ? take_blocks<1>
                    : bits == 2 ? take_blocks<2>
                    : bits == 4 ? take_blocks<4>
                                : take_blocks<8>;
  take(blocks, block, steps, residual, codes);
}

void dequantize(unsigned bits, const std::uint8_t* codes, std::span<const float> steps, std::size_t block,
                float* values) {
  const auto decode = bits == 1   ? values_of<1>
                      : bits == 2 ? values_of<2>
                      : bits == 4 ? values_of<4>
                                  : values_of<8>;
  decode(codes, steps, block, values);
}

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {

HWY_EXPORT(block_maxima);
HWY_EXPORT(block_means);
HWY_EXPORT(take_blocks_quantized);
HWY_EXPORT(dequantize);

void block_maxima(std::span<const BlockId> blocks, std::size_t block, const float* values, float* maxima) {
  assert(block % kBlock == 0);
  HWY_DYNAMIC_DISPATCH(block_maxima)(blocks, block, values, maxima);
}

void block_means(std::span<const BlockId> blocks, std::size_t block, const float* values, float* means) {
  assert(block % kBlock == 0);
  HWY_DYNAMIC_DISPATCH(block_means)(blocks, block, values, means);
}

void take_blocks_quantized(unsigned bits, std::span<const BlockId> blocks, std::size_t block,
                           const float* steps, float* residual, std::uint8_t* codes) {
  assert((bits == 1 || bits == 2 || bits == 4 || bits == 8) && block % kBlock == 0);
  HWY_DYNAMIC_DISPATCH(take_blocks_quantized)(bits, blocks, block, steps, residual, codes);
}

void dequantize(unsigned bits, const std::uint8_t* codes, std::span<const float> steps, std::size_t block,
                float* values) {
  assert((bits == 1 || bits == 2 || bits == 4 || bits == 8) && block % kBlock == 0);
  HWY_DYNAMIC_DISPATCH(dequantize)(bits, codes, steps, block, values);
}

}  // namespace stella
#endif
