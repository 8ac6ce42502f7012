// Blocks far apart in memory are cache misses that the hardware does not foresee; the list of them is known.
#pragma once

#include <hwy/cache_control.h>

#include <cstddef>
#include <span>

#include "base/ids.hpp"
#include "kernels/block.hpp"

namespace stella {

// Starts to load, from `array`, the block that comes some places after place k of `blocks`: one cache line,
// as large as kBlock values of fp32.
template <class T>
void prefetch_block(std::span<const BlockId> blocks, std::size_t k, const T* array,
                    std::size_t block = kBlock) {
  constexpr std::size_t kAhead = 32;  // of five arrays: 10 KiB, which a first cache holds
  if (k + kAhead >= blocks.size() || blocks[k + kAhead] == blocks[k] + kAhead)
    return;  // none, or a plain run
  hwy::Prefetch(array + std::size_t{blocks[k + kAhead]} * block);
}

}  // namespace stella
