// The unit of everything sparse: StellaTrain (SIGCOMM 2024) §3.2, "cache-aware".
#pragma once

#include <cstddef>

namespace stella {

// Elements of one block: one cache line of fp32. Tensors are padded with zeros to whole blocks, so that a
// block never crosses tensors and kernels have no tails.
inline constexpr std::size_t kBlock = 16;

}  // namespace stella
