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

  // Parameters, a part of the fragment of a round, of which lists count the places.
  struct Part {
    std::span<float> own;         // x_i, with the round in them
    const float* common;          // W, with the round in it, [own.size()]
    std::size_t place;            // of the first one, in the fragment
    std::size_t at;               // and in the model
    const ListedValues* changes;  // G, of the fragment; null where it is not listed
    const float* mean;            // then G of this part, [own.size()]
  };
  // What was hidden of c_i, which this member `told`, is told first; then a share of what the model shows
  // beside W is hidden. Nothing is while a parameter of the part is not finite.
  void settle(const Part& part, const ListedValues& told);
  // All that is hidden of `own`, the values from `at` on, is shown, if they are finite.
  void show(std::size_t at, std::span<float> own);
  // All parts of a round have been settled, or shown.
  void round_over() { pull_.round_over(); }
  // As if no round had been yet; what is hidden stays.
  void begin_anew();

 private:
  void watch(const Part& part, const ListedValues& told);

  const std::optional<float> given_share_;
  Pull pull_;                       // where none is given
  AlignedArray<float> values_;      // e_i
  AlignedArray<std::int8_t> went_;  // the sign of W's last change; 0 before; empty where a share is given
};

}  // namespace stella
