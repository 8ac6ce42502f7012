// The trainer's gradients, whatever their type.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>

#include "engine/layout.hpp"
#include "kernels/finite.hpp"
#include "kernels/half.hpp"
#include "stella/engine.hpp"

namespace stella {

// Calls visit(values) with the slice's part of a gradient that is there.
template <class Visit>
void with_values(const Gradient& gradient, const Slice& slice, Visit visit) {
  const auto values = [&]<class T>(const T* data) {
    return std::span<const T>(data + slice.begin, slice.numel);
  };
  switch (gradient.type) {
    case GradientType::fp32:
      return visit(values(static_cast<const float*>(gradient.data)));
    case GradientType::bf16:
      return visit(values(static_cast<const Bf16*>(gradient.data)));
    case GradientType::fp16:
      return visit(values(static_cast<const Fp16*>(gradient.data)));
  }
}

inline bool all_finite(std::span<const float> values) { return find_nonfinite(values) == values.size(); }
template <class Half>
bool all_finite(std::span<const Half> values) {
  return std::ranges::all_of(values, [](Half value) { return is_finite(value); });
}

// The first tensor of the bucket whose gradient is not finite.
inline std::optional<std::uint32_t> first_nonfinite(const BucketLayout& layout,
                                                    std::span<const Gradient> gradients) {
  for (const Slice& slice : layout.slices) {
    const Gradient& gradient = gradients[slice.tensor];
    bool finite = true;
    if (gradient.data != nullptr)
      with_values(gradient, slice, [&](auto values) { finite = all_finite(values); });
    if (!finite) return slice.tensor;
  }
  return std::nullopt;
}

}  // namespace stella
