#include "optim/settings.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <functional>
#include <limits>

#include "stella/error.hpp"

namespace stella {
namespace {

const GroupSettings kUnusual = {.kind = OptimizerKind::adamw,
                                .lr = 0.25,
                                .weight_decay = 0.5,
                                .momentum = 0.75,
                                .dampening = 0.125,
                                .beta1 = 0.5,
                                .beta2 = 0.875,
                                .eps = 1e-8,
                                .nesterov = true,
                                .amsgrad = false,
                                .maximize = true};

Bytes written(const GroupSettings& settings) {
  Bytes bytes;
  ByteWriter writer(bytes);
  write_settings(settings, writer);
  return bytes;
}

GroupSettings read(const Bytes& bytes) {
  ByteReader reader(bytes, "test");
  const auto settings = read_settings(reader);
  reader.expect_end();
  return settings;
}

TEST(Settings, WhatIsWrittenIsReadBack) {
  EXPECT_EQ(read(written(kUnusual)), kUnusual);
  EXPECT_EQ(read(written(GroupSettings())), GroupSettings());
}

TEST(Settings, TheBytesAreThoseOfTheDocument) {
  const auto bytes = written(kUnusual);
  ASSERT_EQ(bytes.size(), 58u);
  EXPECT_EQ(std::to_integer<int>(bytes[0]), 2);      // adamw
  EXPECT_EQ(std::to_integer<int>(bytes[1]), 1 | 4);  // nesterov, maximize
  const double numbers[] = {0.25, 0.5, 0.75, 0.125, 0.5, 0.875, 1e-8};
  EXPECT_EQ(std::memcmp(bytes.data() + 2, numbers, sizeof numbers), 0);
}

TEST(Settings, UnknownKindsAndFlagsAndShortBytesAreRefused) {
  auto bytes = written(kUnusual);
  bytes[0] = std::byte{3};
  EXPECT_THROW(read(bytes), Error);
  bytes = written(kUnusual);
  bytes[1] = std::byte{8};
  EXPECT_THROW(read(bytes), Error);
  for (std::size_t size = 0; size < 58; ++size) {
    bytes = written(kUnusual);
    bytes.resize(size);
    EXPECT_THROW(read(bytes), Error) << size;
  }
}

TEST(Settings, TheFirstDifferenceIsASentence) {
  GroupSettings here{.lr = 0.001}, there{.lr = 0.002};
  EXPECT_EQ(first_difference(here, there), "lr is 0.001 here, 0.002 there");
  EXPECT_EQ(first_difference(here, there, "on a", "on b"), "lr is 0.001 on a, 0.002 on b");
  EXPECT_EQ(first_difference(here, here), std::nullopt);
  there = here;
  there.nesterov = true;
  EXPECT_EQ(first_difference(here, there), "nesterov is false here, true there");
  there.kind = OptimizerKind::adam;
  EXPECT_EQ(first_difference(here, there), "the optimizer is sgd here, adam there");
}

TEST(Settings, EveryFieldIsComparedAndWritten) {
  const std::vector<std::function<void(GroupSettings&)>> changes = {
      [](GroupSettings& s) { s.kind = OptimizerKind::adam; },
      [](GroupSettings& s) { s.lr = 9; },
      [](GroupSettings& s) { s.weight_decay = 9; },
      [](GroupSettings& s) { s.momentum = 9; },
      [](GroupSettings& s) { s.dampening = 9; },
      [](GroupSettings& s) { s.beta1 = 9; },
      [](GroupSettings& s) { s.beta2 = 9; },
      [](GroupSettings& s) { s.eps = 9; },
      [](GroupSettings& s) { s.nesterov = true; },
      [](GroupSettings& s) { s.amsgrad = true; },
      [](GroupSettings& s) { s.maximize = true; }};
  for (const auto& change : changes) {
    GroupSettings changed;
    change(changed);
    EXPECT_TRUE(first_difference(GroupSettings(), changed).has_value());
    EXPECT_EQ(read(written(changed)), changed);
  }
}

TEST(Settings, TheRoundingOfAScheduleIsNoDifferenceButTheDigitBeforeItIs) {
  for (double GroupSettings::*field :
       {&GroupSettings::lr, &GroupSettings::momentum, &GroupSettings::beta2, &GroupSettings::eps}) {
    GroupSettings here, near, far;
    here.*field = 0.3;
    near.*field = 0.3 * (1 + 0.9e-12);
    far.*field = 0.3 * (1 + 1.2e-12);
    EXPECT_FALSE(first_difference(here, near)) << *first_difference(here, near);
    EXPECT_FALSE(first_difference(near, here)) << *first_difference(near, here);
    EXPECT_TRUE(first_difference(here, far));
    EXPECT_TRUE(first_difference(far, here));
  }
}

// 1 + cos(x) near the end of a schedule is a small difference of numbers near 1.
TEST(Settings, ACosineThatEndsAtZeroMayDifferByTheRoundingOfItsCosine) {
  const double pi = std::acos(-1.0);
  for (const double left : {1e-2, 1e-4, 1e-6}) {
    const double cosine = std::cos(pi * (1 - left));
    const double other_library = std::nextafter(cosine, 0);
    const GroupSettings here{.lr = 0.1 * (1 + cosine) / 2}, there{.lr = 0.1 * (1 + other_library) / 2};
    EXPECT_FALSE(first_difference(here, there)) << *first_difference(here, there);
  }
  EXPECT_FALSE(first_difference(GroupSettings{.lr = 0}, GroupSettings{.lr = 0.9e-15}));
  EXPECT_TRUE(first_difference(GroupSettings{.lr = 0}, GroupSettings{.lr = 1.1e-15}));
  EXPECT_TRUE(first_difference(GroupSettings{.eps = 0}, GroupSettings{.eps = 0.9e-15}));
}

TEST(Settings, NanDiffersFromEverythingAndInfinityFromNumbers) {
  const GroupSettings nan{.lr = std::nan("")};
  EXPECT_TRUE(first_difference(nan, nan).has_value());
  const GroupSettings infinite{.lr = std::numeric_limits<double>::infinity()};
  EXPECT_TRUE(first_difference(infinite, GroupSettings()).has_value());
}

TEST(Settings, WhatTorchTakesIsValid) {
  EXPECT_NO_THROW(validate(GroupSettings()));
  EXPECT_NO_THROW(validate({.kind = OptimizerKind::adamw, .lr = 0, .beta1 = 0, .beta2 = 0, .eps = 0}));
  EXPECT_NO_THROW(validate({.lr = 1, .momentum = 0.9, .nesterov = true}));
}

TEST(Settings, NonsenseIsRefusedNamingTheField) {
  const double inf = std::numeric_limits<double>::infinity();
  const std::vector<std::pair<GroupSettings, const char*>> nonsense = {
      {{.lr = -0.1}, "lr"},
      {{.lr = std::nan("")}, "lr"},
      {{.lr = inf}, "lr"},
      {{.weight_decay = -1}, "weight_decay"},
      {{.momentum = -0.9}, "momentum"},
      {{.dampening = inf}, "dampening"},
      {{.beta1 = 1}, "beta1"},
      {{.beta1 = -0.1}, "beta1"},
      {{.beta2 = 1.5}, "beta2"},
      {{.eps = -1e-8}, "eps"},
      {{.momentum = 0, .nesterov = true}, "momentum"},
      {{.momentum = 0.9, .dampening = 0.1, .nesterov = true}, "dampening"}};
  for (const auto& [settings, name] : nonsense) {
    try {
      validate(settings);
      ADD_FAILURE() << "no error for " << name;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
      EXPECT_EQ(std::string(error.what()).rfind(name, 0), 0u) << error.what();
    }
  }
}

}  // namespace
}  // namespace stella
