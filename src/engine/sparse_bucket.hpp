// What one member keeps of one bucket under rule="sparse".
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <vector>

#include "base/aligned.hpp"
#include "base/ids.hpp"
#include "compress/encoding.hpp"
#include "compress/selector.hpp"
#include "engine/digest.hpp"
#include "engine/layout.hpp"
#include "kernels/block.hpp"
#include "optim/optimizer.hpp"

namespace stella {

// Blocks that an applied iteration changed and that the trainer's parameters have not seen.
struct Unpublished {
  Iteration iteration = 0;
  std::vector<BlockId> blocks;  // ascending
};

// Which thread may touch what: see Rule; the pipeline orders the calls.
struct SparseBucket {
  SparseBucket(BucketLayout where, const GroupSettings& settings, std::string_view selector_name,
               std::uint64_t seed);

  const BucketLayout layout;
  const std::vector<ShortBlock> short_blocks;  // of layout.block elements: those whose end is padding

  // Blocks of layout.block elements: what is chosen and sent.
  std::size_t blocks_to_send() const { return layout.blocks * kBlock / layout.block; }
  // Their scores: sums of those of kBlock.
  std::span<const float> scores_to_send();

  // This member's own.
  std::vector<std::uint8_t> present;  // by slice: it had a gradient in this iteration
  AlignedArray<float> residual;  // [blocks * kBlock] what was not sent yet, and this iteration's gradient
  std::size_t accumulated = 0;   // elements, from the start, of which the latter is true
  AlignedArray<float> scores;    // [blocks] sums of squares of the residual
  AlignedArray<float>
      block_scores;  // the same of blocks of layout.block elements; empty where that is kBlock
  // The tensor at whose residual this iteration's sums stopped because one would have overflowed, though all
  // gradients of the bucket are finite.
  std::optional<std::uint32_t> overflowed;
  std::unique_ptr<Selector> selector;

  // The same on all members.
  AlignedArray<float> weights;  // [blocks * kBlock]
  std::unique_ptr<SparseOptimizer> optimizer;
  DigestHistory digests;
  std::deque<Unpublished> unpublished;  // ascending by iteration

  // After a step: weights behind the end of a tensor are +0 again. Adam with eps = 0 divides 0 by 0 there.
  void clear_padding();
  // After state was loaded, which holds no padding: blocks of kBlock that are nothing else are at the step of
  // the last element before them. Where all have made equally many steps, optimizers are faster.
  void count_padding();
};

}  // namespace stella
