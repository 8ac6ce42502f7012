// What an optimizer's param_group says, as torch spells it.
#pragma once

#include <cstdint>

namespace stella {

enum class OptimizerKind : std::uint8_t { sgd = 0, adam = 1, adamw = 2 };

// The hyperparameters of one param_group. Fields that the kind does not use stay at their defaults. They may
// change at every step (LR schedulers do that) and must be equal on all members of an iteration, up to the
// rounding of a schedule that machines compute with different libraries.
struct GroupSettings {
  OptimizerKind kind = OptimizerKind::sgd;
  double lr = 1e-3;
  double weight_decay = 0;  // sgd, adam: added to the gradient; adamw: decoupled
  double momentum = 0;      // sgd
  double dampening = 0;     // sgd
  double beta1 = 0.9;       // adam, adamw
  double beta2 = 0.999;     // adam, adamw
  double eps = 1e-8;        // adam, adamw
  bool nesterov = false;    // sgd
  bool amsgrad = false;     // adam, adamw
  bool maximize = false;

  friend bool operator==(const GroupSettings&, const GroupSettings&) = default;
};

}  // namespace stella
