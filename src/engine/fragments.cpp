#include "engine/fragments.hpp"

#include <algorithm>
#include <utility>

namespace stella {

FragmentSchedule::FragmentSchedule(std::size_t total, RoundSize first, std::size_t most)
    : total_(total),
      most_(std::clamp<std::size_t>(total / kUnderWay, 1, std::max<std::size_t>(1, most))),
      size_(cut(first)) {}

RoundSize FragmentSchedule::cut(RoundSize size) const {
  return {std::clamp<std::size_t>(size.blocks, 1, most_), size.bits};
}

void FragmentSchedule::announce(Iteration announced_in, RoundSize size) {
  std::lock_guard lock(mutex_);
  announced_[announced_in + kNotice] = cut(size);
}

// With the lock.
void FragmentSchedule::come_to(Iteration round) {
  round_ = round;
  while (!announced_.empty() && announced_.begin()->first <= round_) {
    size_ = announced_.begin()->second;
    announced_.erase(announced_.begin());
  }
}

Fragment FragmentSchedule::next() {
  std::lock_guard lock(mutex_);
  come_to(round_ + 1);
  const std::size_t first = (last_.first + last_.blocks) % total_;
  last_ = {first, std::min(size_.blocks, total_ - first)};
  return last_;
}

void FragmentSchedule::follow(Iteration round, const Fragment& fragment) {
  std::lock_guard lock(mutex_);
  come_to(round);
  last_ = fragment;
  if (fragment.first + fragment.blocks < total_) size_.blocks = fragment.blocks;
}

// Round, last fragment, size, then what is announced: round, blocks, bits of each.
std::vector<std::uint64_t> FragmentSchedule::state() const {
  std::lock_guard lock(mutex_);
  std::vector<std::uint64_t> state{round_, last_.first, last_.blocks, size_.blocks, size_.bits};
  for (const auto& [round, size] : announced_) state.insert(state.end(), {round, size.blocks, size.bits});
  return state;
}

bool FragmentSchedule::set_state(std::span<const std::uint64_t> state) {
  constexpr std::size_t kHead = 5, kEach = 3;
  if (state.size() < kHead || (state.size() - kHead) % kEach != 0) return false;
  const Fragment last{state[1], state[2]};
  if (last.blocks > total_ || last.first > total_ - last.blocks) return false;
  const auto size_at = [&](std::size_t at) {
    return RoundSize{state[at], static_cast<unsigned>(std::min<std::uint64_t>(state[at + 1], 64))};
  };
  const auto usable = [&](const RoundSize& size) { return size == cut(size) && is_coding(size.bits); };
  if (!usable(size_at(3))) return false;
  std::map<Iteration, RoundSize> announced;
  for (std::size_t at = kHead; at < state.size(); at += kEach) {
    if (state[at] <= state[0] || state[at] > state[0] + kNotice || !usable(size_at(at + 1))) return false;
    announced.emplace(state[at], size_at(at + 1));
  }
  std::lock_guard lock(mutex_);
  round_ = state[0];
  last_ = last;
  size_ = size_at(3);
  announced_ = std::move(announced);
  return true;
}

Fragment FragmentSchedule::last() const {
  std::lock_guard lock(mutex_);
  return last_;
}

RoundSize FragmentSchedule::size() const {
  std::lock_guard lock(mutex_);
  return size_;
}

Iteration FragmentSchedule::round() const {
  std::lock_guard lock(mutex_);
  return round_;
}

}  // namespace stella
