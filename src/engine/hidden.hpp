// What a member of rule="local" has learned, and hides from its own model: e_i of docs/rules.md, `pull`.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/aligned.hpp"
#include "compress/listed_values.hpp"
#include "control/pull.hpp"

namespace stella {

// values() of what rounds under way are about may be read beside calls for other parts; all else on one
// thread.
class Hidden {
 public:
  //   size   of the model, in values; 0 for a member that never hides anything: is_empty()
  //   share  that rounds hide, 0 to 1; nothing for as much as pays (Pull)
  Hidden(std::size_t size, std::optional<double> share);

  bool is_empty() const { return values_.empty(); }
  std::span<float> values() { return values_; }

  // Parameters, a part of a fragment, of which a round told and changed what is listed.
  struct Part {
    std::span<float> own;  // x_i, with the round in them
    const float* common;   // W, with the round in it, [own.size()]
    std::size_t place;     // of the first one, in the fragment, from where lists count
    std::size_t at;        // and in the model
  };
  // What was hidden is told first; then a share of what the model shows beside W is hidden. Nothing is while
  // a parameter of the part is not finite.
  //   told     c_i
  //   changes  G; null where it is not listed
  void settle(const Part& part, const ListedValues& told, const ListedValues* changes);
  // Nothing of `own`, the values from `at` on, is hidden any more.
  void show(std::size_t at, std::span<float> own);

 private:
  const std::optional<float> given_share_;
  Pull pull_;                       // where none is given
  AlignedArray<float> values_;      // e_i
  AlignedArray<std::int8_t> went_;  // the sign of the last change of W that a round listed; 0 before
};

}  // namespace stella
