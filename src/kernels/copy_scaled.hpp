// Gradients on their way into the engine: copied and multiplied in one pass.
#pragma once

#include <span>

namespace stella {

// to[i] = from[i] * scale for every i; any length, any alignment. `to` may be from.data(), or must not
// overlap it. Returns whether every result is finite; all of them are written in any case. Same bits on every
// target.
bool copy_scaled(std::span<const float> from, float scale, float* to);

}  // namespace stella
