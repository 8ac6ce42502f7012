// Blocks far apart in memory are cache misses that the hardware does not foresee; the list of them is known.
#pragma once

#include <hwy/cache_control.h>

#include <algorithm>
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

// Blocks [begin, end) of whatever array, to be loaded.
struct LinesAhead {
  std::size_t begin = 0, end = 0;

  // `block` values are one cache line, or less.
  template <class T>
  void load(const T* array, std::size_t block = kBlock) const {
    for (std::size_t id = begin; id < end; ++id) hwy::Prefetch(array + id * block);
  }
};

// What to load for one and the same pass over several arrays, by how much of them is listed: the listed
// blocks alone, or, where many are listed, all lines in order, which on some CPUs cost less than listed ones
// with small gaps. Calls each(first, last, ahead) for stretches of places, all of them, in order; ahead(k) is
// what to load when place k's turn has come, at most kLines blocks.
//   blocks  ascending
template <class Each>
void for_each_stretch(std::span<const BlockId> blocks, Each each) {
  constexpr std::size_t kStretch = 256;  // places: small beside the caches, and little to decide
  constexpr std::size_t kAhead = 32;     // places: of five arrays 10 KiB, which a first cache holds
  constexpr std::size_t kLines = 16;     // blocks, where they are loaded in order
  for (std::size_t first = 0; first < blocks.size(); first += kStretch) {
    const std::size_t last = std::min(first + kStretch, blocks.size());
    const std::size_t among = std::size_t{blocks[last - 1]} - blocks[first] + 1;
    if (const std::size_t listed = last - first; listed * 8 > among * 3) {
      each(first, last, [blocks](std::size_t k) {
        const std::size_t next = blocks[std::min(k + 1, blocks.size() - 1)];
        const std::size_t loaded =
            std::size_t{blocks[k]} + (k == 0 ? 1 : kLines);  // but for what is in a hole
        return LinesAhead{std::max(loaded, next), std::min(next + kLines, std::size_t{blocks.back()} + 1)};
      });
    } else {
      each(first, last, [blocks](std::size_t k) {
        const std::size_t id = blocks[std::min(k + kAhead, blocks.size() - 1)];
        return LinesAhead{id, id + 1};
      });
    }
  }
}

}  // namespace stella
