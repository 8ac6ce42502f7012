#include "compress/block_selector.hpp"

#include <algorithm>
#include <bit>
#include <functional>
#include <iterator>

#include "kernels/collect.hpp"

namespace stella {

void BlockSelector::select(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen) {
  chosen.clear();
  if (budget == 0) return;
  const auto found = candidates(scores, budget);
  if (found.size() < budget) {  // all that have a score
    chosen.assign(found.begin(), found.end());
    threshold_ = 1;
  } else {
    choose(scores, found, budget, chosen);
  }
}

// At least `budget` blocks, if so many have a score.
std::span<const BlockId> BlockSelector::candidates(std::span<const float> scores, std::size_t budget) {
  candidates_.resize(scores.size());
  std::size_t count = collect_at_least(scores, threshold_, candidates_.data());
  if (count < budget && threshold_ > 1) {
    ++misses_;
    count = collect_at_least(scores, 1, candidates_.data());
  }
  return std::span(candidates_).first(count);
}

void BlockSelector::choose(std::span<const float> scores, std::span<const BlockId> candidates,
                           std::size_t budget, std::vector<BlockId>& chosen) {
  histogram_.fill(0);
  for (const BlockId block : candidates) ++histogram_[score_bits(scores[block]) >> kDropped];
  std::size_t bin = kBins - 1;
  std::size_t above = 0;  // candidates in the bins above `bin`
  while (above + histogram_[bin] < budget) above += histogram_[bin--];
  if (candidates.size() > 2 * budget) {
    margin_ = margin_for(budget + budget / 2, bin, above);
  } else if (candidates.size() < budget + budget / 4) {
    margin_ = std::min(margin_ + margin_ / 4, 4 * kOctave);
  }

  // Both lists have one place more than they need: every block is written, and kept by moving on.
  above_.resize(above + 1);
  boundary_.resize(histogram_[bin] + 1);
  std::size_t kept_above = 0;
  std::size_t kept_boundary = 0;
  for (const BlockId block : candidates) {
    const std::size_t own = score_bits(scores[block]) >> kDropped;
    above_[kept_above] = block;
    boundary_[kept_boundary] = block;
    kept_above += own > bin;
    kept_boundary += own == bin;
  }
  above_.pop_back();
  boundary_.pop_back();
  choose_from_boundary(scores, budget - above, chosen);
}

// The distance from the boundary `bin` down to a score that so many blocks have at least.
std::uint32_t BlockSelector::margin_for(std::size_t count, std::size_t bin, std::size_t above) const {
  std::size_t last = bin;
  for (std::size_t there = above + histogram_[bin]; there < count && last > 0;) there += histogram_[--last];
  return std::clamp(static_cast<std::uint32_t>(bin - last) << kDropped, kOctave / 64, 4 * kOctave);
}

// How far below the smallest chosen score the next call's may be. Scores that sink are expected to sink
// again, by half as much again at most.
std::uint32_t BlockSelector::next_threshold(std::uint32_t smallest) {
  const std::uint32_t sank = smallest_ > smallest ? smallest_ - smallest : 0;
  smallest_ = smallest;
  sank_ = std::clamp(sank, sank_ - sank_ / 8, 4 * kOctave);
  const std::uint32_t margin = std::max(margin_, sank_ + sank_ / 2);
  return smallest > margin ? smallest - margin : 1;
}

// Merges above_ and the best `budget` blocks of boundary_ into `chosen`; the next threshold.
void BlockSelector::choose_from_boundary(std::span<const float> scores, std::size_t budget,
                                         std::vector<BlockId>& chosen) {
  patterns_.clear();
  for (const BlockId block : boundary_) patterns_.push_back(score_bits(scores[block]));
  const auto last = patterns_.begin() + static_cast<std::ptrdiff_t>(budget - 1);
  std::nth_element(patterns_.begin(), last, patterns_.end(), std::greater<>());
  const std::uint32_t lowest = *last;  // the smallest score that fits
  threshold_ = next_threshold(lowest);
  const auto larger = static_cast<std::size_t>(
      std::count_if(patterns_.begin(), last, [lowest](std::uint32_t p) { return p > lowest; }));
  const std::size_t seats = budget - larger;  // for the blocks whose score equals `lowest`

  const auto ties =
      static_cast<std::size_t>(std::count_if(boundary_.begin(), boundary_.end(), [&](BlockId block) {
        return score_bits(scores[block]) == lowest;
      }));
  const std::uint64_t start = turn_ % scores.size();
  const auto before_start =
      static_cast<std::size_t>(std::count_if(boundary_.begin(), boundary_.end(), [&](BlockId block) {
        return block < start && score_bits(scores[block]) == lowest;
      }));
  std::size_t tie = 0;
  const auto fits = [&](BlockId block) {
    const std::uint32_t own = score_bits(scores[block]);
    if (own != lowest) return own > lowest;
    const std::size_t place = (tie++ + ties - before_start) % ties;  // among the ties, counted from `start`
    if (place >= seats) return false;
    if (place == seats - 1) turn_ = std::uint64_t{block} + 1;
    return true;
  };
  boundary_.erase(std::remove_if(boundary_.begin(), boundary_.end(), std::not_fn(fits)), boundary_.end());
  std::merge(above_.begin(), above_.end(), boundary_.begin(), boundary_.end(), std::back_inserter(chosen));
}

}  // namespace stella
