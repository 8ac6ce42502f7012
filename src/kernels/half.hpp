// Numbers of 16 bits as torch has them, by their bits.
#pragma once

#include <cstdint>

namespace stella {

struct Bf16 {  // the upper half of an fp32
  std::uint16_t bits;
};
struct Fp16 {  // IEEE 754 binary16
  std::uint16_t bits;
};

constexpr bool is_finite(Bf16 half) { return (half.bits & 0x7f80) != 0x7f80; }
constexpr bool is_finite(Fp16 half) { return (half.bits & 0x7c00) != 0x7c00; }

}  // namespace stella
