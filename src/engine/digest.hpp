// Proof that members hold the same weights, kept up to date at the cost of what changed.
#pragma once

#include <array>
#include <cstdint>
#include <mutex>
#include <optional>
#include <span>

#include "base/ids.hpp"
#include "exchange/payload.hpp"

namespace stella {

// The sum modulo 2^64 of a hash of (block id, block bytes) over the given blocks of a bucket.
//   blocks    ascending ids
//   weights   the whole bucket, [blocks * kBlock]
std::uint64_t hash_blocks(std::span<const BlockId> blocks, std::span<const float> weights);
// The same over all blocks.
std::uint64_t hash_all_blocks(std::span<const float> weights);

// The incremental digest is recomputed in full so often, to notice memory that changed by itself.
inline constexpr Iteration kFullDigestEvery = 1000;

// The digests of one bucket after its latest iterations. Any thread may call anything.
class DigestHistory {
 public:
  // As many iterations as a member's header can lag behind: staleness + 1, and some slack.
  static constexpr std::size_t kKept = 4;

  // Forgets everything before `digest`.
  void restart(Digest digest);
  // digest.iteration is one more than newest().iteration.
  void add(Digest digest);
  Digest newest() const;
  // Nothing if that iteration is no longer, or not yet, known.
  std::optional<std::uint64_t> at(Iteration iteration) const;

 private:
  mutable std::mutex mutex_;  // guards what follows
  std::array<Digest, kKept> kept_{};
  Iteration newest_ = 0;
};

}  // namespace stella
