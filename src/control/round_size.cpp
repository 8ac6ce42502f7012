#include "control/round_size.hpp"

#include <algorithm>
#include <cmath>

namespace stella {
namespace {

// Of a step that a round may take. Room for what varies.
constexpr double kAim = 0.8;
// A round of twice the bits must fit the aim, with some slack, or sizes would swing.
constexpr double kRoomForMoreBits = 0.35;
constexpr unsigned kFloatBits = 32;
constexpr double kSignBits = 1.0 / 7;  // for a value, about: docs/encoding.md

unsigned finer(unsigned bits) { return bits == 0 ? 1 : bits == 8 ? kFloatBits : 2 * bits; }
unsigned coarser(unsigned bits) { return bits == kFloatBits ? 8 : bits / 2; }
double bits_sent(unsigned bits) { return bits == 0 ? kSignBits : bits; }

}  // namespace

RoundSize next_size(RoundSize now, RoundTimes times, std::size_t least, std::size_t most) {
  const double share = times.round / times.step;
  const auto usable = [](double seconds) { return std::isfinite(seconds) && seconds > 0; };
  if (!usable(times.round) || !usable(times.step)) return now;
  if (share > 1 && now.bits > 0) return {now.blocks, coarser(now.bits)};
  if (now.blocks >= most && share < 1) {
    const double growth = bits_sent(finer(now.bits)) / bits_sent(now.bits);
    const bool room = now.bits < kFloatBits && share * growth < 2 * kRoomForMoreBits;
    return {most, room ? finer(now.bits) : now.bits};
  }
  const double factor = std::clamp(kAim / share, 0.5, 2.0);
  const auto blocks = static_cast<std::size_t>(std::llround(factor * static_cast<double>(now.blocks)));
  return {std::clamp(blocks, least, most), now.bits};
}

}  // namespace stella
