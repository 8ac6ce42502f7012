// What one member keeps of one bucket under rule="sparse".
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
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

// The blocks, of layout.block elements, whose end is padding.
inline std::vector<ShortBlock> short_blocks_of(const BucketLayout& layout) {
  std::vector<ShortBlock> result;
  for (const Slice& slice : layout.slices) {
    const std::size_t end = slice.offset + slice.numel;
    const std::size_t block = layout.block;
    if (end % block != 0) result.push_back({static_cast<BlockId>(end / block), end % block});
  }
  return result;
}

// Which thread may touch what: see Rule; the pipeline orders the calls.
struct SparseBucket {
  SparseBucket(BucketLayout where, const GroupSettings& settings, std::string_view selector_name,
               std::uint64_t seed)
      : layout(std::move(where)),
        short_blocks(short_blocks_of(layout)),
        present(layout.slices.size()),
        residual(layout.blocks * kBlock),
        accumulated(layout.blocks * kBlock),
        scores(layout.blocks),
        block_scores(layout.block == kBlock ? 0 : layout.blocks * kBlock / layout.block),
        selector(make_selector(selector_name, seed)),
        weights(layout.blocks * kBlock),
        optimizer(make_optimizer(settings, layout.blocks)) {}

  const BucketLayout layout;
  const std::vector<ShortBlock> short_blocks;

  // Blocks of layout.block elements: what is chosen and sent.
  std::size_t blocks_to_send() const { return layout.blocks * kBlock / layout.block; }

  // This member's own.
  std::vector<std::uint8_t> present;  // by slice: it had a gradient in this iteration
  AlignedArray<float> residual;       // [blocks * kBlock] what was not sent yet
  AlignedArray<float> accumulated;  // [blocks * kBlock] that and this iteration's gradient: the next residual
                                    // unless the iteration is skipped
  AlignedArray<float> scores;       // [blocks] sums of squares of accumulated
  AlignedArray<float>
      block_scores;  // the same of blocks of layout.block elements; empty where that is kBlock
  bool scores_are_finite = true;
  std::unique_ptr<Selector> selector;

  // The same on all members.
  AlignedArray<float> weights;  // [blocks * kBlock]
  std::unique_ptr<SparseOptimizer> optimizer;
  DigestHistory digests;
  std::deque<Unpublished> unpublished;  // ascending by iteration
};

}  // namespace stella
