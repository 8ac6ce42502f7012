#include "kernels/cpu.hpp"

#include <gtest/gtest.h>

#include <algorithm>

#include "stella/error.hpp"

namespace stella {
namespace {

TEST(Cpu, ThereIsAlwaysATargetAndTheBestOneIsChosen) {
  force_target("");
  ASSERT_FALSE(supported_targets().empty());
  EXPECT_EQ(chosen_target(), supported_targets().front());
}

TEST(Cpu, EverySupportedTargetCanBeForced) {
  for (const auto& target : supported_targets()) {
    force_target(target);
    EXPECT_EQ(chosen_target(), target);
  }
  force_target("");
}

TEST(Cpu, AnUnknownTargetIsRefusedNamingTheSupportedOnes) {
  try {
    force_target("altivec");
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::configuration);
    for (const auto& target : supported_targets()) {
      EXPECT_NE(std::string(error.what()).find(target), std::string::npos);
    }
  }
}

TEST(Cpu, TheEnvironmentForcesATarget) {
  const std::string last = supported_targets().back();
  setenv("STELLA_CPU", last.c_str(), 1);
  force_target_from_environment();
  EXPECT_EQ(chosen_target(), last);
  setenv("STELLA_CPU", "", 1);
  force_target_from_environment();
  EXPECT_EQ(chosen_target(), supported_targets().front());
  unsetenv("STELLA_CPU");
}

}  // namespace
}  // namespace stella
