#include "control/round_size.hpp"

#include <algorithm>
#include <cmath>

namespace stella {
namespace {

// Of a step that a round may take. Room for what varies.
constexpr double kAim = 0.8;
// A round of codes must fit into so much of a step, or sizes would swing.
constexpr double kRoomForCodes = 0.7;
constexpr unsigned kCodeBits = 8;
constexpr double kSignBits = 1.0 / 7;  // for a value, about: docs/encoding.md

}  // namespace

RoundSize next_size(RoundSize now, RoundTimes times, std::size_t least, std::size_t most) {
  const double share = times.round / times.step;
  const auto usable = [](double seconds) { return std::isfinite(seconds) && seconds > 0; };
  if (!usable(times.round) || !usable(times.step)) return now;
  const bool ours = now.bits == 0 || now.bits == kCodeBits;  // or else of another time, as in a checkpoint
  if (!ours || (share > 1 && now.bits > 0)) return {now.blocks, 0};
  if (now.blocks >= most && share < 1) {
    const bool room = now.bits == 0 && share * kCodeBits / kSignBits < kRoomForCodes;
    return {most, room ? kCodeBits : now.bits};
  }
  const double factor = std::clamp(kAim / share, 0.5, 2.0);
  const auto blocks = static_cast<std::size_t>(std::llround(factor * static_cast<double>(now.blocks)));
  return {std::clamp(blocks, least, most), now.bits};
}

RoundSize RoundSizes::next(RoundSize now, RoundTimes times, std::size_t least, std::size_t most) {
  RoundSize size = next_size(now, times, least, most);
  if (size.bits < now.bits && !codes_were_too_much_) {
    codes_were_too_much_ = true;
    waits_ = next_waits_;
    next_waits_ = std::min(2 * next_waits_, kMostWaits);
  }
  if (size.bits <= now.bits) return size;
  if (waits_ > 0) {
    --waits_;
    return {size.blocks, now.bits};
  }
  codes_were_too_much_ = false;
  return size;
}

}  // namespace stella
