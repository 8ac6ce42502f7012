// What a member of rule="local" does with what a round says: what was told leaves it, and a share of what
// was not told is hidden from its own model. docs/rules.md.
#pragma once

#include <span>

namespace stella {

// For every i, with c = merged - correction, what the member told:
//   back   = of c what has the sign of `hidden`, as far as there is so much: told first what is hidden
//   hidden = hidden - back,  own = own + (correction + back)
//   own'   = own - share * (own - common),  hidden = hidden + (own - own')
// So own + hidden change by the correction. Every operation rounds by itself: same bits on every target. Any
// length; nothing overlaps.
//   share       0 to 1
//   merged      G, [own.size()]
//   correction  G - c, [own.size()]
//   common      W, with G in it, [own.size()]
//   hidden      [own.size()]
void hide(float share, const float* merged, const float* correction, const float* common,
          std::span<float> own, float* hidden);

}  // namespace stella
