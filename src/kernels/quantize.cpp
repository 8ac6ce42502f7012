#include "kernels/quantize.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cmath>
#include <cstring>

#include "kernels/block.hpp"
#include "kernels/prefetch.hpp"

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

// Bit i of the index at bit 2 i.
constexpr std::array<std::uint16_t, 256> kSpread = [] {
  std::array<std::uint16_t, 256> spread{};
  for (std::size_t byte = 0; byte < spread.size(); ++byte) {
    for (unsigned bit = 0; bit < 8; ++bit)
      spread[byte] = static_cast<std::uint16_t>(spread[byte] | (byte >> bit & 1) << (2 * bit));
  }
  return spread;
}();

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
template <class T>
struct Four {
  T lane[4];
};

// Magnitudes are in the order of their bits, NaN behind all.
constexpr std::int32_t kMagnitude = 0x7fffffff;

#if HWY_TARGET == HWY_SCALAR  // one lane, and no operations across lanes

HWY_INLINE Four<float> fold_sum(const float* x) {
  Four<float> t;
  for (std::size_t j = 0; j < 4; ++j)
    t.lane[j] = (std::abs(x[j]) + std::abs(x[j + 8])) + (std::abs(x[j + 4]) + std::abs(x[j + 12]));
  return t;
}

HWY_INLINE Four<std::int32_t> fold_max(const float* x) {
  const auto magnitude = [x](std::size_t at) { return std::bit_cast<std::int32_t>(x[at]) & kMagnitude; };
  Four<std::int32_t> t;
  for (std::size_t j = 0; j < 4; ++j)
    t.lane[j] = std::max({magnitude(j), magnitude(j + 8), magnitude(j + 4), magnitude(j + 12)});
  return t;
}

#else

HWY_INLINE Four<float> fold_sum(const float* x) {
  const hn::CappedTag<float, 4> d;
  const auto magnitude = [&](std::size_t at) HWY_ATTR { return hn::Abs(hn::LoadU(d, x + at)); };
  Four<float> t;
  hn::StoreU(hn::Add(hn::Add(magnitude(0), magnitude(8)), hn::Add(magnitude(4), magnitude(12))), d, t.lane);
  return t;
}

HWY_INLINE Four<std::int32_t> fold_max(const float* x) {
  const hn::CappedTag<float, 4> d;
  const hn::RebindToSigned<decltype(d)> di;
  const auto mask = hn::Set(di, kMagnitude);
  const auto magnitude = [&](std::size_t at)
                             HWY_ATTR { return hn::And(hn::BitCast(di, hn::LoadU(d, x + at)), mask); };
  Four<std::int32_t> t;
  hn::StoreU(hn::Max(hn::Max(magnitude(0), magnitude(8)), hn::Max(magnitude(4), magnitude(12))), di, t.lane);
  return t;
}

#endif

void block_maxima(std::span<const BlockId> blocks, std::size_t block, const float* values, float* maxima) {
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    prefetch_block(blocks, k, values, block);
    const float* x = values + blocks[k] * block;
    std::int32_t largest = 0;
    for (std::size_t i = 0; i < block; i += kBlock) {
      const auto t = fold_max(x + i);
      largest = std::max({largest, t.lane[0], t.lane[1], t.lane[2], t.lane[3]});
    }
    maxima[k] = std::bit_cast<float>(largest);
  }
}

void block_means(std::span<const BlockId> blocks, std::size_t block, const float* values, float* means) {
  const float share = 1.0f / static_cast<float>(block);
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    prefetch_block(blocks, k, values, block);
    const float* x = values + blocks[k] * block;
    float sum = 0;
    for (std::size_t i = 0; i < block; i += kBlock) {
      const auto t = fold_sum(x + i);
      sum += (t.lane[0] + t.lane[2]) + (t.lane[1] + t.lane[3]);
    }
    means[k] = sum * share;
  }
}

// One bit for each lane, from the lowest on; at most eight lanes.
template <class D, class M>
HWY_INLINE std::uint32_t bits_of(D d, M mask) {
  std::uint8_t bits[8];
  hn::StoreMaskBits(d, mask, bits);
  return bits[0];
}

// In what follows, Lanes(d) values become what their codes do not say.

// Returns the codes, one bit each.
template <class D>
HWY_INLINE std::uint32_t take_signs(D d, hn::Vec<D> step, float* values) {
  const hn::RebindToSigned<D> di;
  const auto x = hn::LoadU(d, values);
  const auto negative = hn::RebindMask(d, hn::Lt(hn::BitCast(di, x), hn::Zero(di)));
  hn::StoreU(hn::Sub(x, hn::IfThenElse(negative, hn::Neg(step), step)), d, values);
  return bits_of(d, negative);
}

// Returns the codes, two bits each.
template <class D>
HWY_INLINE std::uint32_t take_quarters(D d, hn::Vec<D> step, float* values) {
  const auto x = hn::LoadU(d, values);
  const auto twice = hn::Add(step, step);
  const auto thrice = hn::Mul(hn::Set(d, 3.0f), step);
  const auto upper = hn::Ge(x, twice);  // so all three hold
  const auto middle = hn::Ge(x, hn::Zero(d));
  const auto lower = hn::Ge(x, hn::Neg(twice));
  const auto value = hn::IfThenElse(middle, hn::IfThenElse(upper, thrice, step),
                                    hn::Neg(hn::IfThenElse(lower, step, thrice)));
  hn::StoreU(hn::Sub(x, value), d, values);
  const std::uint32_t middle_bits = bits_of(d, middle);
  const std::uint32_t odd_bits = bits_of(d, upper) ^ middle_bits ^ bits_of(d, lower);
  return kSpread[odd_bits] | std::uint32_t{kSpread[middle_bits]} << 1;
}

// Returns the codes, a lane each. `bits` is 4 or 8.
template <unsigned bits, class D>
HWY_INLINE hn::Vec<hn::RebindToSigned<D>> take_integers(D d, hn::Vec<D> step, float* values) {
  const hn::RebindToSigned<D> di;
  const auto x = hn::LoadU(d, values);
  // Adding 1.5 * 2^23 rounds to an integer, ties to even, and leaves it in the lowest bits.
  const auto most = hn::Set(d, static_cast<float>((1 << (bits - 1)) - 1));
  const auto shift = hn::Set(d, 12582912.0f);
  const auto shifted = hn::Add(hn::Max(hn::Min(hn::Div(x, step), most), hn::Neg(most)), shift);
  hn::StoreU(hn::Sub(x, hn::Mul(hn::Sub(shifted, shift), step)), d, values);
  const auto level = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, shift));
  return hn::Sub(level, hn::Set(di, kLowest<bits>));
}

// In these, `values` are those of a whole kBlock, whose codes go to `codes`.

template <unsigned bits>
HWY_INLINE void take_bits(float step, float* values, std::uint8_t* codes) {
  const hn::CappedTag<float, 8> d;
  const auto steps = hn::Set(d, step);
  std::uint32_t packed = 0;
  for (std::size_t i = 0; i < kBlock; i += hn::Lanes(d)) {
    const std::uint32_t own =
        bits == 1 ? take_signs(d, steps, values + i) : take_quarters(d, steps, values + i);
    packed |= own << (i * bits);
  }
  std::memcpy(codes, &packed, code_bytes(bits, kBlock));
}

HWY_INLINE void take_bytes(float step, float* values, std::uint8_t* codes) {
  const hn::CappedTag<float, kBlock> d;
  const hn::Rebind<std::uint8_t, decltype(d)> bytes;
  const auto steps = hn::Set(d, step);
  for (std::size_t i = 0; i < kBlock; i += hn::Lanes(d))
    hn::StoreU(hn::DemoteTo(bytes, take_integers<8>(d, steps, values + i)), bytes, codes + i);
}

#if HWY_TARGET == HWY_SCALAR

HWY_INLINE void take_halves(float step, float* values, std::uint8_t* codes) {
  const hn::CappedTag<float, 1> d;
  const auto steps = hn::Set(d, step);
  for (std::size_t i = 0; i < kBlock; i += 2) {
    const std::int32_t low = hn::GetLane(take_integers<4>(d, steps, values + i));
    const std::int32_t high = hn::GetLane(take_integers<4>(d, steps, values + i + 1));
    codes[i / 2] = static_cast<std::uint8_t>(low | high << 4);
  }
}

#else

HWY_INLINE void take_halves(float step, float* values, std::uint8_t* codes) {
  const hn::CappedTag<float, kBlock> d;
  const hn::RepartitionToWide<hn::RebindToUnsigned<decltype(d)>> pairs;
  const hn::Rebind<std::uint8_t, decltype(pairs)> bytes;
  const auto steps = hn::Set(d, step);
  for (std::size_t i = 0; i < kBlock; i += hn::Lanes(d)) {
    // Two codes lie in each 64 bits; the upper one comes down beside the lower.
    const auto two = hn::BitCast(pairs, take_integers<4>(d, steps, values + i));
    hn::StoreU(hn::TruncateTo(bytes, hn::Or(two, hn::ShiftRight<28>(two))), bytes, codes + i / 2);
  }
}

#endif

template <unsigned bits>
void take_blocks(std::span<const BlockId> blocks, std::size_t block, const float* steps, float* residual,
                 std::uint8_t* codes) {
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    float* values = residual + blocks[k] * block;
    std::uint8_t* to = codes + k * code_bytes(bits, block);
    if (steps[k] == 0) {
      std::memset(to, 0, code_bytes(bits, block));
      continue;
    }
    for (std::size_t i = 0; i < block; i += kBlock, to += code_bytes(bits, kBlock)) {
      if constexpr (bits == 8) {
        take_bytes(steps[k], values + i, to);
      } else if constexpr (bits == 4) {
        take_halves(steps[k], values + i, to);
      } else {
        take_bits<bits>(steps[k], values + i, to);
      }
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
