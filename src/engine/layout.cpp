#include "engine/layout.hpp"

#include <algorithm>
#include <limits>
#include <map>

#include "kernels/block.hpp"
#include "stella/error.hpp"

namespace stella {

std::vector<BucketLayout> plan_buckets(std::span<const TensorSpec> tensors, std::size_t bucket_bytes,
                                       std::size_t block) {
  const std::size_t parts = block / kBlock;
  const std::size_t capacity = parts * std::max<std::size_t>(1, bucket_bytes / (block * sizeof(float)));
  std::vector<BucketLayout> buckets;
  std::map<std::uint32_t, std::size_t> open;  // by group: the bucket that still takes tensors
  for (std::uint32_t tensor = 0; tensor < tensors.size(); ++tensor) {
    const std::size_t elements = numel(tensors[tensor]);
    for (std::size_t begin = 0; begin < elements;) {
      const std::uint32_t group = tensors[tensor].group;
      auto found = open.find(group);
      if (found == open.end() || buckets[found->second].blocks >= capacity) {
        buckets.push_back({group, 0, block, {}});
        found = open.insert_or_assign(group, buckets.size() - 1).first;
      }
      BucketLayout& bucket = buckets[found->second];
      const std::size_t taken = std::min(elements - begin, (capacity - bucket.blocks) * kBlock);
      bucket.slices.push_back({tensor, begin, taken, bucket.blocks * kBlock});
      bucket.blocks += (taken + block - 1) / block * parts;
      begin += taken;
    }
  }
  if (buckets.empty()) {
    throw Error(ErrorCode::invalid_argument,
                "the optimizer holds no parameter with elements; nothing to train");
  }
  return buckets;
}

std::vector<ShortBlock> short_blocks_of(const BucketLayout& layout) {
  std::vector<ShortBlock> result;
  for (const Slice& slice : layout.slices) {
    const std::size_t end = slice.offset + slice.numel;
    const std::size_t block = layout.block;
    if (end % block != 0) result.push_back({static_cast<BlockId>(end / block), end % block});
  }
  return result;
}

std::size_t numel(const TensorSpec& tensor) {
  std::size_t elements = 1;
  for (const std::int64_t size : tensor.shape) {
    if (size < 0 ||
        (size > 0 && elements > std::numeric_limits<std::int64_t>::max() / static_cast<std::size_t>(size))) {
      throw Error(ErrorCode::invalid_argument,
                  "parameter '" + tensor.name + "' has the shape " + shape_text(tensor));
    }
    elements *= static_cast<std::size_t>(size);
  }
  return elements;
}

std::string shape_text(const TensorSpec& tensor) {
  std::string text;
  for (const std::int64_t size : tensor.shape) text += (text.empty() ? "" : ", ") + std::to_string(size);
  return "(" + text + (tensor.shape.size() == 1 ? ",)" : ")");
}

}  // namespace stella
