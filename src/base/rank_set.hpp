// Some of the members of a run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/ids.hpp"

namespace stella {

// Ranks below a number that never changes. One thread at a time.
class RankSet {
 public:
  // Of nobody, in a world of that many.
  explicit RankSet(std::uint32_t members) : in_(members, false) {}
  static RankSet all(std::uint32_t members) {
    RankSet set(members);
    set.in_.assign(members, true);
    return set;
  }

  std::uint32_t members() const { return static_cast<std::uint32_t>(in_.size()); }
  bool has(Rank rank) const { return in_.at(rank); }
  void add(Rank rank) { in_.at(rank) = true; }
  void remove(Rank rank) { in_.at(rank) = false; }
  // Those that are in the other one too, or are not in it.
  RankSet both(const RankSet& other) const { return where(other, true); }
  RankSet without(const RankSet& other) const { return where(other, false); }
  std::uint32_t size() const {
    std::uint32_t count = 0;
    for (const bool in : in_) count += in;
    return count;
  }
  bool empty() const { return size() == 0; }
  std::optional<Rank> first() const {
    for (Rank rank = 0; rank < in_.size(); ++rank) {
      if (in_[rank]) return rank;
    }
    return std::nullopt;
  }
  friend bool operator==(const RankSet&, const RankSet&) = default;

 private:
  RankSet where(const RankSet& other, bool in_other) const {
    RankSet set(members());
    for (Rank rank = 0; rank < in_.size(); ++rank) set.in_[rank] = in_[rank] && other.has(rank) == in_other;
    return set;
  }

  std::vector<bool> in_;
};

}  // namespace stella
