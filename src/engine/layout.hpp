// Which parameters travel together.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/ids.hpp"
#include "compress/encoding.hpp"
#include "kernels/block.hpp"
#include "stella/engine.hpp"

namespace stella {

// A run of elements of one tensor, and where it lies in its bucket.
struct Slice {
  std::uint32_t tensor = 0;
  std::size_t begin = 0;   // first element of the tensor
  std::size_t numel = 0;   // elements; what is missing to whole blocks is zero padding
  std::size_t offset = 0;  // first element of the bucket, a multiple of BucketLayout::block
};

// The unit of pipelining: one large tensor, a slice of a huge one, or several small ones fused. All of one
// param_group. Blocks never cross slices.
struct BucketLayout {
  std::uint32_t group = 0;
  std::size_t blocks = 0;      // of kBlock elements, the padding among them
  std::size_t block = kBlock;  // elements that travel together: EngineOptions::block
  std::vector<Slice> slices;   // ascending by offset
};

// Deals out the tensors in their order (the model's, so that earlier buckets are nearer the input) into
// buckets of about `bucket_bytes` of fp32, whole blocks of `block` elements. Pure: equal arguments give equal
// buckets on every member. Throws Error(invalid_argument) for no elements at all.
std::vector<BucketLayout> plan_buckets(std::span<const TensorSpec> tensors, std::size_t bucket_bytes,
                                       std::size_t block = kBlock);

// The blocks of layout.block elements whose end is padding, ascending.
std::vector<ShortBlock> short_blocks_of(const BucketLayout& layout);

// Calls visit(slice, first, numel) for each run of elements that `blocks` cover, without the padding; `first`
// counts elements of the bucket.
//   blocks   of kBlock, ascending; those that are nothing but padding are passed over
template <class Visit>
void for_each_run(const BucketLayout& layout, std::span<const BlockId> blocks, Visit visit) {
  auto slice = layout.slices.begin();
  for (std::size_t i = 0; i < blocks.size();) {
    const std::size_t first = std::size_t{blocks[i]} * kBlock;
    while (slice + 1 != layout.slices.end() && first >= (slice + 1)->offset) ++slice;
    const std::size_t end_of_slice = slice->offset + slice->numel;
    if (first >= end_of_slice) {
      ++i;
      continue;
    }
    std::size_t end = first + kBlock;
    for (++i; i < blocks.size() && std::size_t{blocks[i]} * kBlock == end && end < end_of_slice; ++i)
      end += kBlock;
    visit(*slice, first, std::min(end, end_of_slice) - first);
  }
}

// Elements of a tensor. Throws Error(invalid_argument) for a negative or overflowing shape.
std::size_t numel(const TensorSpec& tensor);

// "(128, 64)"
std::string shape_text(const TensorSpec& tensor);

}  // namespace stella
