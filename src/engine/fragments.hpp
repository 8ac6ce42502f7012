// Which part of the model each round of rule="local" is about: the same on all members.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>

#include "base/ids.hpp"

namespace stella {

// A contiguous window over the blocks of all parameters.
struct Fragment {
  std::size_t first = 0;  // block
  std::size_t blocks = 0;
  friend bool operator==(const Fragment&, const Fragment&) = default;
};

// Windows that advance over the blocks and begin again at the end, where the last one is short. Any two in a
// row are disjoint, unless there is one block only: so two rounds may be under way at a time. Pure
// arithmetic: equal calls give equal fragments. Any thread may call anything.
class FragmentSchedule {
 public:
  // Rounds under way at a time, at most.
  static constexpr unsigned kUnderWay = 2;
  // Rounds that lie between the one that announces a size and the first one of that size. Whoever begins
  // that one has merged the announcing one.
  static constexpr Iteration kNotice = kUnderWay + 1;

  //   total   blocks of all parameters, at least 1
  //   blocks  of the first fragments; what is too many or none is taken as the nearest that can be
  FragmentSchedule(std::size_t total, std::size_t blocks);

  // Blocks of a fragment, at most: half of all, or the one that there is.
  std::size_t most() const { return most_; }
  std::size_t total() const { return total_; }

  // Fragments from round `announced_in` + kNotice on have so many blocks, cut to what can be. Announcements
  // may come in any order, each before next() comes to the first round that it holds for.
  void announce(Iteration announced_in, std::size_t blocks);

  // That of the next round.
  Fragment next();
  // The last one that next() returned, and its round, 0 before.
  Fragment last() const;
  Iteration round() const;
  // Of the fragments now, but for the short ones.
  std::size_t blocks() const;

 private:
  std::size_t cut(std::size_t blocks) const;

  const std::size_t total_;
  const std::size_t most_;
  mutable std::mutex mutex_;  // guards what follows
  Iteration round_ = 0;
  Fragment last_;
  std::size_t blocks_ = 0;                      // of the fragments now
  std::map<Iteration, std::size_t> announced_;  // by the first round that has so many blocks
};

}  // namespace stella
