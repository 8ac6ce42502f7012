// Which blocks of a bucket are worth sending now.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.hpp"

namespace stella {

// One bucket's selection over the iterations. What a member selects concerns nobody else: members may differ.
// One thread at a time; different buckets have different selectors.
class Selector {
 public:
  using State = std::array<std::uint64_t, 2>;

  virtual ~Selector() = default;

  // Replaces the content of `chosen` by the ids of at most `budget` blocks, ascending.
  //   scores  [blocks] at least 0, from accumulate_score; infinite ones are allowed, NaN is not
  // A block of score 0 is never chosen: it has nothing to send, or nothing yet that a square in fp32 can
  // show.
  virtual void select(std::span<const float> scores, std::size_t budget, std::vector<BlockId>& chosen) = 0;

  // All that it carries from one call to the next: given to a selector of the same name and seed, that one
  // chooses from then on as this one does. Any words are sound, they come out of files.
  virtual State state() const = 0;
  virtual void set_state(const State& state) = 0;
};

// "blocks"     the `budget` largest scores, exactly; equal scores take turns. The default.
// "threshold"  StellaTrain (SIGCOMM 2024) §3.2: every block above a threshold that follows the budget.
// "random"     random blocks, for comparison.
// `seed` decides whose turn is first and what is random; give every member and bucket its own. Throws
// Error(invalid_argument), naming the supported ones, for any other name.
std::unique_ptr<Selector> make_selector(std::string_view name, std::uint64_t seed);

}  // namespace stella
