#include "kernels/cpu.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>

#include "stella/error.hpp"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "kernels/cpu.cpp"
#include <hwy/foreach_target.h>
#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace stella::HWY_NAMESPACE {

std::int64_t this_target() { return HWY_TARGET; }

}  // namespace stella::HWY_NAMESPACE
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace stella {
namespace {

HWY_EXPORT(this_target);

std::string name_of(std::int64_t target) {
  std::string name = hwy::TargetName(target);
  std::transform(name.begin(), name.end(), name.begin(), [](unsigned char c) { return std::tolower(c); });
  return name;
}

}  // namespace

std::vector<std::string> supported_targets() {
  std::vector<std::string> names;
  for (const auto target : hwy::SupportedAndGeneratedTargets()) names.push_back(name_of(target));
  return names;
}

std::string chosen_target() { return name_of(HWY_DYNAMIC_DISPATCH(this_target)()); }

void force_target(std::string_view name) {
  if (name.empty()) {
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    return;
  }
  std::string supported;
  for (const auto target : hwy::SupportedAndGeneratedTargets()) {
    if (name_of(target) == name) {
      hwy::GetChosenTarget().Update(target);
      return;
    }
    supported += (supported.empty() ? "" : ", ") + name_of(target);
  }
  throw Error(ErrorCode::configuration, "this machine has no vector target \"" + std::string(name) +
                                            "\"; set STELLA_CPU to one of " + supported + ", or unset it");
}

void force_target_from_environment() {
  if (const char* name = std::getenv("STELLA_CPU")) force_target(name);
}

}  // namespace stella
#endif
