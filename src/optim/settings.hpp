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

// Machines compute a schedule with different libraries, whose last digits differ. So numbers are equal up to
// this share of the larger one, and lr and weight_decay, which schedules take to 0, up to 1e-15 too. Whoever
// applies settings that are equal in this sense must still apply one member's everywhere.
inline constexpr double kSettingsRounding = 1e-12;

// The first field in which the two differ, as a sentence: "lr is 0.001 here, 0.002 there". A NaN differs from
// everything. at_here, at_there: what the sentence has for "here" and "there".
std::optional<std::string> first_difference(const GroupSettings& here, const GroupSettings& there,
                                            std::string_view at_here = "here",
                                            std::string_view at_there = "there");

// Throws Error(invalid_argument), naming the field, for what torch refuses too: lr, momentum, weight_decay or
// eps negative or not finite, a beta outside [0, 1), Nesterov momentum without momentum or with dampening.
void validate(const GroupSettings& settings);

}  // namespace stella
