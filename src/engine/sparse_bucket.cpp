#include "engine/sparse_bucket.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace stella {
SparseBucket::SparseBucket(BucketLayout where, const GroupSettings& settings, std::string_view selector_name,
                           std::uint64_t seed)
    : layout(std::move(where)),
      short_blocks(short_blocks_of(layout)),
      present(layout.slices.size()),
      residual(layout.blocks * kBlock),
      scores(layout.blocks),
      block_scores(layout.block == kBlock ? 0 : blocks_to_send()),
      selector(make_selector(selector_name, seed)),
      weights(layout.blocks * kBlock),
      optimizer(make_optimizer(settings, layout.blocks)) {}

std::span<const float> SparseBucket::scores_to_send() {
  if (block_scores.empty()) return scores;
  const std::size_t parts = layout.block / kBlock;
  for (std::size_t id = 0; id < block_scores.size(); ++id) {
    const float* own = &scores[id * parts];
    block_scores[id] = std::accumulate(own, own + parts, 0.0f);
  }
  return block_scores;
}

void SparseBucket::clear_padding() {
  for (const ShortBlock& one : short_blocks) {
    float* values = weights.data() + one.block * layout.block;
    std::fill(values + one.numel, values + layout.block, 0.0f);
  }
}

void SparseBucket::count_padding() {
  const std::span<std::uint32_t> steps = optimizer->steps();  // always: tells it that they were written
  const std::size_t parts = layout.block / kBlock;
  for (const ShortBlock& one : short_blocks) {
    const std::size_t first = one.block * parts;
    const std::size_t last = first + (one.numel - 1) / kBlock;  // with an element
    std::ranges::fill(steps.subspan(last, first + parts - last), steps[last]);
  }
}

}  // namespace stella
