#include "engine/fragments.hpp"

#include <algorithm>

namespace stella {

FragmentSchedule::FragmentSchedule(std::size_t total, std::size_t blocks)
    : total_(total), most_(std::max<std::size_t>(1, total / kUnderWay)), blocks_(cut(blocks)) {}

std::size_t FragmentSchedule::cut(std::size_t blocks) const {
  return std::clamp<std::size_t>(blocks, 1, most_);
}

void FragmentSchedule::announce(Iteration announced_in, std::size_t blocks) {
  std::lock_guard lock(mutex_);
  announced_[announced_in + kNotice] = cut(blocks);
}

Fragment FragmentSchedule::next() {
  std::lock_guard lock(mutex_);
  ++round_;
  while (!announced_.empty() && announced_.begin()->first <= round_) {
    blocks_ = announced_.begin()->second;
    announced_.erase(announced_.begin());
  }
  const std::size_t first = (last_.first + last_.blocks) % total_;
  last_ = {first, std::min(blocks_, total_ - first)};
  return last_;
}

Fragment FragmentSchedule::last() const {
  std::lock_guard lock(mutex_);
  return last_;
}

std::size_t FragmentSchedule::blocks() const {
  std::lock_guard lock(mutex_);
  return blocks_;
}

Iteration FragmentSchedule::round() const {
  std::lock_guard lock(mutex_);
  return round_;
}

}  // namespace stella
