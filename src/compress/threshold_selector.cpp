#include "compress/threshold_selector.hpp"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <limits>

namespace stella {
namespace {

constexpr float kHigher = 1.1f;         // the slope is measured between v and kHigher * v
constexpr double kAim = 1.15;           // of the budget, so that chance rarely leaves it unfilled
constexpr std::size_t kCandidates = 2;  // times the budget: more above v are not worth a look

// Whether v is so far off that following it step by step would take long.
bool no_guide(float threshold, std::size_t above, std::size_t budget) {
  return above > kCandidates * budget || (threshold > 0 && above < (budget + 1) / 2);
}

// The n-th largest of `values`, n from 1; reorders them.
float nth_largest(std::vector<float>& values, std::size_t n) {
  const auto place = values.begin() + static_cast<std::ptrdiff_t>(n - 1);
  std::nth_element(values.begin(), place, values.end(), std::greater<>());
  return *place;
}

}  // namespace

void ThresholdSelector::select(std::span<const float> scores, std::size_t budget,
                               std::vector<BlockId>& chosen) {
  chosen.clear();
  if (budget == 0 || scores.empty()) return;
  const BlockId start = static_cast<BlockId>(start_ % scores.size());
  const bool fresh = !threshold_;
  if (fresh) read_off(scores, budget);
  Counts counts = scan(scores, budget, chosen);
  if (!fresh && no_guide(*threshold_, counts.above, budget)) {
    read_off(scores, budget);
    counts = scan(scores, budget, chosen);
  }
  keep_largest(scores, budget, chosen);
  // The blocks from `start` on came first.
  const auto wrapped =
      std::partition_point(chosen.begin(), chosen.end(), [=](BlockId b) { return b >= start; });
  std::rotate(chosen.begin(), wrapped, chosen.end());
  follow(counts, budget);
}

// The second word is 0 without a v, else 1 more than its bits.
Selector::State ThresholdSelector::state() const {
  return {start_, threshold_ ? std::uint64_t{1} + std::bit_cast<std::uint32_t>(*threshold_) : 0};
}

void ThresholdSelector::set_state(const State& state) {
  start_ = state[0];
  threshold_.reset();
  const float threshold = std::bit_cast<float>(static_cast<std::uint32_t>(state[1] - 1));
  if (state[1] != 0 && threshold >= 0) threshold_ = threshold;
}

// Fills `candidates` with blocks above v in the order of the pass.
ThresholdSelector::Counts ThresholdSelector::scan(std::span<const float> scores, std::size_t budget,
                                                  std::vector<BlockId>& candidates) {
  const float threshold = *threshold_;
  const float higher = threshold * kHigher;
  const std::size_t limit = std::min(scores.size(), kCandidates * std::min(budget, scores.size()));
  candidates.resize(limit + 1);  // one place more than needed: every block is written, and kept by moving on
  Counts counts;
  std::size_t kept = 0;
  const auto pass = [&](std::size_t begin, std::size_t end) {
    for (std::size_t block = begin; block < end; ++block) {
      const bool exceeds = scores[block] > threshold;
      candidates[kept] = static_cast<BlockId>(block);
      kept += exceeds && kept < limit;
      counts.above += exceeds;
      counts.above_higher += scores[block] > higher;
    }
  };
  const std::size_t start = start_ % scores.size();
  pass(start, scores.size());
  pass(0, start);
  candidates.resize(kept);
  return counts;
}

// Drops the smallest until the budget is met; among equal ones those that come last.
void ThresholdSelector::keep_largest(std::span<const float> scores, std::size_t budget,
                                     std::vector<BlockId>& candidates) {
  if (candidates.size() <= budget) return;
  scratch_.clear();
  for (const BlockId block : candidates) scratch_.push_back(scores[block]);
  const float lowest = nth_largest(scratch_, budget);
  const auto larger = std::count_if(scratch_.begin(), scratch_.begin() + static_cast<std::ptrdiff_t>(budget),
                                    [lowest](float score) { return score > lowest; });
  std::size_t seats =
      budget - static_cast<std::size_t>(larger);  // for the blocks whose score equals `lowest`
  std::erase_if(candidates, [&](BlockId block) {
    if (scores[block] != lowest) return scores[block] < lowest;
    if (seats == 0) return true;
    --seats;
    return false;
  });
  start_ = std::uint64_t{candidates.back()} + 1;
}

// The largest v that lets at least the budget through, or 0 if there is not that much to send.
void ThresholdSelector::read_off(std::span<const float> scores, std::size_t budget) {
  threshold_ = 0;
  if (scores.size() <= budget) return;
  scratch_.assign(scores.begin(), scores.end());
  const float last = nth_largest(scratch_, budget);
  if (last > 0) threshold_ = std::nextafter(last, 0.0f);
}

// Moves v for the next call.
void ThresholdSelector::follow(const Counts& counts, std::size_t budget) {
  if (*threshold_ == 0) {
    if (counts.above > budget) threshold_.reset();
    return;
  }
  if (counts.above == 0) return;
  const double above = static_cast<double>(counts.above);
  const double above_higher = std::max(0.5, static_cast<double>(counts.above_higher));
  const double slope = std::max(0.5, std::log(above / above_higher) / std::log(double{kHigher}));
  const double step = std::clamp(std::log(above / (kAim * static_cast<double>(budget))) / slope, -1.0, 1.0);
  const double moved = *threshold_ * std::exp(step);
  threshold_ = static_cast<float>(std::min(moved, double{std::numeric_limits<float>::max()}));
}

}  // namespace stella
