// Which part of the model each round of rule="local" is about: the same on all members.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <span>
#include <vector>

#include "base/ids.hpp"
#include "control/round_size.hpp"

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

  //   total  blocks of all parameters, at least 1
  //   first  the size of the first rounds; blocks that are too many or none are taken as the nearest that can
  //          be
  //   most   blocks of a fragment, at most
  FragmentSchedule(std::size_t total, RoundSize first, std::size_t most = ~std::size_t{0});

  // Blocks of a fragment, at most: half of all, or the one that there is, or what the constructor was told.
  std::size_t most() const { return most_; }
  std::size_t total() const { return total_; }

  // Rounds from `announced_in` + kNotice on have that size, its blocks cut to what can be. Announcements may
  // come in any order, each before next() comes to the first round that it holds for.
  void announce(Iteration announced_in, RoundSize size);

  // That of the next round.
  Fragment next();
  // The last one that next() returned, and its round, 0 before.
  Fragment last() const;
  Iteration round() const;
  // Of the newest round; its fragment may be shorter.
  RoundSize size() const;

  // That round is about that fragment, as others say; so that next() is right afterwards, all announcements
  // of the kNotice rounds before must have been made, and a fragment in them that is not the model's end.
  void follow(Iteration round, const Fragment& fragment);

  // For checkpoints: all that next() depends on.
  std::vector<std::uint64_t> state() const;
  // Returns false, and changes nothing, for what state() of a schedule over so many blocks never returns.
  bool set_state(std::span<const std::uint64_t> state);

 private:
  RoundSize cut(RoundSize size) const;
  void come_to(Iteration round);

  const std::size_t total_;
  const std::size_t most_;
  mutable std::mutex mutex_;  // guards what follows
  Iteration round_ = 0;
  Fragment last_;
  RoundSize size_;
  std::map<Iteration, RoundSize> announced_;  // by the first round that has that size
};

}  // namespace stella
