// Which blocks are worth a closer look. StellaTrain (SIGCOMM 2024) §3.2.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.hpp"

namespace stella {

// The bits of a score without its sign: scores at least 0 are in the order of their bits, NaN behind all.
inline constexpr std::uint32_t kScoreBits = 0x7fffffff;
inline std::uint32_t score_bits(float score) { return std::bit_cast<std::uint32_t>(score) & kScoreBits; }

// Writes the ids of all blocks whose score has at least the bits `least`, ascending, and returns how many.
//   scores  [blocks] from accumulate_score, or others whose sign does not count; any alignment
//   least   as kScoreBits; 1 is the smallest score above 0
//   ids     [blocks], at most; so many as are returned are written
// Threads: disjoint ranges may run in parallel.
std::size_t collect_at_least(std::span<const float> scores, std::uint32_t least, BlockId* ids);

// How many that would be.
std::size_t count_at_least(std::span<const float> scores, std::uint32_t least);

}  // namespace stella
