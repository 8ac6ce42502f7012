// A param_group's settings (stella/optimizer_settings.hpp) on the wire, compared between members, and
// checked.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.hpp"
#include "stella/optimizer_settings.hpp"

namespace stella {

// "sgd", "adam", "adamw"
std::string_view to_string(OptimizerKind kind);

// Format: docs/encoding.md, "Settings". Reading throws Error(protocol) for a kind or a flag that this build
// does not know; numbers are taken as they are.
void write_settings(const GroupSettings& settings, ByteWriter& writer);
GroupSettings read_settings(ByteReader& reader);

// The first field in which the two differ, as a sentence: "lr is 0.001 here, 0.002 there". A NaN differs from
// everything.
std::optional<std::string> first_difference(const GroupSettings& here, const GroupSettings& there);

// Throws Error(invalid_argument), naming the field, for what torch refuses too: lr, momentum, weight_decay or
// eps negative or not finite, a beta outside [0, 1), Nesterov momentum without momentum or with dampening.
void validate(const GroupSettings& settings);

}  // namespace stella
