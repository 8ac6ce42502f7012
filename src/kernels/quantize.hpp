// Codes of 1, 2, 4 or 8 bits, with one step for each block of values. Format: docs/encoding.md, "Codes".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/ids.hpp"

namespace stella {

// A code c stands for the value level(c) * step, a product in fp32:
//   8 bits  level c - 128: -127 to 127        2 bits  level 2 c - 3: -3, -1, 1, 3
//   4 bits  level c - 8: -7 to 7              1 bit   level 1 - 2 c: 1, -1
// Codes lie in bytes from the lowest bits on, so `block` values take block * bits / 8 bytes.
//
// In all of these:
//   bits    1, 2, 4 or 8
//   block   values of one block, a multiple of kBlock; block b begins at value b * block
//   blocks  no block twice
// Every target gives the same bits. Threads: disjoint blocks may be handled in parallel.

constexpr std::size_t code_bytes(unsigned bits, std::size_t block) { return block * bits / 8; }

// maxima[k] = the largest magnitude in the k-th of the named blocks; NaN if one is.
void block_maxima(std::span<const BlockId> blocks, std::size_t block, const float* values, float* maxima);

// means[k] = the mean magnitude; infinite where the sum overflows, NaN if a value is.
void block_means(std::span<const BlockId> blocks, std::size_t block, const float* values, float* means);

// Takes the named blocks out of `residual` as codes: each value as the nearest that a code stands for
// (8 and 4 bits: ties to the even level; 2 bits: up; 1 bit: by the sign, also of a zero), residual -= that.
// Beyond the largest level it is that one. A block of step 0 stays as it is, and its codes are zeros.
//   steps     [blocks.size()] finite, at least 0, with level * step finite
//   residual  finite in the named blocks
//   codes     [blocks.size() * code_bytes(bits, block)]
void take_blocks_quantized(unsigned bits, std::span<const BlockId> blocks, std::size_t block,
                           const float* steps, float* residual, std::uint8_t* codes);

// values = level(code) * step for steps.size() blocks; +0 where the step is 0.
//   codes   [steps.size() * code_bytes(bits, block)]: whatever they are, they stand for something
//   values  [steps.size() * block]
void dequantize(unsigned bits, const std::uint8_t* codes, std::span<const float> steps, std::size_t block,
                float* values);

}  // namespace stella
