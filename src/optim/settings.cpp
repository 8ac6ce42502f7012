#include "optim/settings.hpp"

#include <algorithm>
#include <array>
#include <cmath>

#include "base/text.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

// A schedule that ends at 0 loses digits on its way there: what is left of 1 + cos(x) is the rounding of cos.
constexpr double kNoiseNearZero = 1e-15;

// The fields, in the order of the wire format.
struct Number {
  const char* name;
  double GroupSettings::*field;
  double noise;  // an absolute difference that is none
};
constexpr std::array<Number, 7> kNumbers = {{{"lr", &GroupSettings::lr, kNoiseNearZero},
                                             {"weight_decay", &GroupSettings::weight_decay, kNoiseNearZero},
                                             {"momentum", &GroupSettings::momentum, 0},
                                             {"dampening", &GroupSettings::dampening, 0},
                                             {"beta1", &GroupSettings::beta1, 0},
                                             {"beta2", &GroupSettings::beta2, 0},
                                             {"eps", &GroupSettings::eps, 0}}};

struct Flag {
  const char* name;
  bool GroupSettings::*field;
};
constexpr std::array<Flag, 3> kFlags = {{{"nesterov", &GroupSettings::nesterov},
                                         {"amsgrad", &GroupSettings::amsgrad},
                                         {"maximize", &GroupSettings::maximize}}};

std::string text(bool flag) { return flag ? "true" : "false"; }

bool same_up_to_rounding(double here, double there, double noise) {
  const double apart = std::abs(here - there);
  const double largest = std::max(std::abs(here), std::abs(there));
  return here == there || (std::isfinite(apart) && apart <= std::max(noise, kSettingsRounding * largest));
}

void require(bool holds, const std::string& name, double value, const std::string& what) {
  if (!holds) {
    throw Error(ErrorCode::invalid_argument,
                name + " is " + to_text(value) + " in a param_group; it must be " + what);
  }
}

}  // namespace

std::string_view to_string(OptimizerKind kind) {
  switch (kind) {
    case OptimizerKind::sgd:
      return "sgd";
    case OptimizerKind::adam:
      return "adam";
    case OptimizerKind::adamw:
      return "adamw";
  }
  return "unknown";
}

void write_settings(const GroupSettings& settings, ByteWriter& writer) {
  std::uint8_t flags = 0;
  for (std::size_t i = 0; i < kFlags.size(); ++i) flags |= settings.*kFlags[i].field ? 1u << i : 0u;
  writer.put(static_cast<std::uint8_t>(settings.kind));
  writer.put(flags);
  for (const auto& number : kNumbers) writer.put(settings.*number.field);
}

GroupSettings read_settings(ByteReader& reader) {
  GroupSettings settings;
  const auto kind = reader.get<std::uint8_t>();
  if (kind > static_cast<std::uint8_t>(OptimizerKind::adamw)) {
    throw Error(ErrorCode::protocol, "optimizer settings: unknown kind " + std::to_string(kind));
  }
  settings.kind = static_cast<OptimizerKind>(kind);
  const auto flags = reader.get<std::uint8_t>();
  if (flags >> kFlags.size() != 0) {
    throw Error(ErrorCode::protocol, "optimizer settings: unknown flags " + std::to_string(flags));
  }
  for (std::size_t i = 0; i < kFlags.size(); ++i) settings.*kFlags[i].field = (flags >> i & 1) != 0;
  for (const auto& number : kNumbers) settings.*number.field = reader.get<double>();
  return settings;
}

std::optional<std::string> first_difference(const GroupSettings& here, const GroupSettings& there,
                                            std::string_view at_here, std::string_view at_there) {
  const auto difference = [&](std::string_view name, std::string_view value, std::string_view other) {
    const std::string first = std::string(name) + " is " + std::string(value) + " " + std::string(at_here);
    return first + ", " + std::string(other) + " " + std::string(at_there);
  };
  if (here.kind != there.kind)
    return difference("the optimizer", to_string(here.kind), to_string(there.kind));
  for (const auto& [name, field, noise] : kNumbers) {
    if (!same_up_to_rounding(here.*field, there.*field, noise)) {
      return difference(name, to_text(here.*field), to_text(there.*field));
    }
  }
  for (const auto& [name, field] : kFlags) {
    if (here.*field != there.*field) return difference(name, text(here.*field), text(there.*field));
  }
  return std::nullopt;
}

void validate(const GroupSettings& settings) {
  for (const auto& [name, field, noise] : kNumbers) {
    require(std::isfinite(settings.*field), name, settings.*field, "finite");
    if (field != &GroupSettings::dampening)
      require(settings.*field >= 0, name, settings.*field, "at least 0");
  }
  require(settings.beta1 < 1, "beta1", settings.beta1, "below 1");
  require(settings.beta2 < 1, "beta2", settings.beta2, "below 1");
  if (settings.nesterov) {
    require(settings.momentum > 0, "momentum", settings.momentum, "above 0 with nesterov");
    require(settings.dampening == 0, "dampening", settings.dampening, "0 with nesterov");
  }
}

}  // namespace stella
