// A share of what a member's model shows beside the weights of all is hidden from it. docs/rules.md,
// rule="local", `pull`.
#pragma once

#include <span>

namespace stella {

// How much goes which way, each 0 to 1.
struct Shares {
  float hidden = 0;  // of what is shown beside W
  float shown = 0;   // then, of what is hidden
};

// For every i: own' = own - shares.hidden * (own - common), hidden' = hidden + (own - own'); then
// back = shares.shown * hidden', own'' = own' + back, hidden'' = hidden' - back. So own + hidden stays, up to
// rounding. Every operation rounds by itself: same bits on every target. Any length; nothing overlaps.
//   common  W, [own.size()]
//   hidden  [own.size()]
void hide(Shares shares, const float* common, std::span<float> own, float* hidden);

}  // namespace stella
