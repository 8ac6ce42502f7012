#include "engine/digest.hpp"

#include <xxhash.h>

#include "kernels/block.hpp"

namespace stella {
namespace {

std::uint64_t hash_block(BlockId id, const float* block) {
  return XXH3_64bits_withSeed(block, kBlock * sizeof(float), id);
}

}  // namespace

std::uint64_t hash_blocks(std::span<const BlockId> blocks, std::span<const float> weights) {
  std::uint64_t sum = 0;
  for (const BlockId id : blocks) sum += hash_block(id, weights.data() + std::size_t{id} * kBlock);
  return sum;
}

std::uint64_t hash_all_blocks(std::span<const float> weights) {
  std::uint64_t sum = 0;
  for (std::size_t id = 0; id < weights.size() / kBlock; ++id) {
    sum += hash_block(static_cast<BlockId>(id), weights.data() + id * kBlock);
  }
  return sum;
}

void DigestHistory::restart(Digest digest) {
  std::lock_guard lock(mutex_);
  kept_.fill(digest);
  newest_ = digest.iteration;
}

void DigestHistory::add(Digest digest) {
  std::lock_guard lock(mutex_);
  kept_[digest.iteration % kKept] = digest;
  newest_ = digest.iteration;
}

Digest DigestHistory::newest() const {
  std::lock_guard lock(mutex_);
  return kept_[newest_ % kKept];
}

std::optional<std::uint64_t> DigestHistory::at(Iteration iteration) const {
  std::lock_guard lock(mutex_);
  const Digest& digest = kept_[iteration % kKept];
  if (digest.iteration != iteration) return std::nullopt;
  return digest.value;
}

}  // namespace stella
