// How much a round of rule="local" carries: as much as the link takes while the trainer makes a step.
#pragma once

#include <cstddef>

namespace stella {

// What a member sends in a round.
struct RoundSize {
  std::size_t blocks = 1;  // of a fragment
  unsigned bits = 0;       // of a value: 0 of signs, 8; 32 where somebody leaves them to the others
  friend bool operator==(const RoundSize&, const RoundSize&) = default;
};

// Whether a value can have so many bits.
inline bool is_coding(unsigned bits) {
  return bits == 0 || bits == 1 || bits == 2 || bits == 4 || bits == 8 || bits == 32;
}

// What one looks at after a round. Seconds, above 0.
struct RoundTimes {
  double step = 0;   // between two steps of the trainer
  double round = 0;  // that the slowest link needs for one, of which each step begins one
};

// The size of later rounds. A round that takes longer than a step makes what it carries stale: it gets
// smaller; one that is over early leaves the link idle: it gets larger, as signs. A link that could carry
// half of the model in 8 bits in every step does so. One bit learned no more than signs where it was tried
// (docs/benchmarks/convergence.md); 2 and 4 have not been. Blocks change by a factor of two at most. Nonsense
// (zero, NaN, infinite times) changes nothing. Pure.
//   most   blocks of a fragment, at most
//   least  and at least
RoundSize next_size(RoundSize now, RoundTimes times, std::size_t least, std::size_t most);

// next_size() of round after round. What a link needs for few bytes, as signs of a small model are, says
// little of what it needs for 8 bits: codes that turned out too much are tried again only after 16 rounds,
// then after twice as many, and so on.
class RoundSizes {
 public:
  RoundSize next(RoundSize now, RoundTimes times, std::size_t least, std::size_t most);

 private:
  static constexpr unsigned kMostWaits = 4096;
  bool codes_were_too_much_ = false;  // since they were begun
  unsigned waits_ = 0, next_waits_ = 16;
};

}  // namespace stella
