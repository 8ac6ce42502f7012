#include "engine/hidden.hpp"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace stella {
namespace {

// A model of eight values, all of them in one part, whose fragment begins with it.
struct Member {
  explicit Member(std::optional<double> share) : hidden(8, share) {}

  // A round told that of value `place`, and changed W by that.
  void round(std::uint32_t place, float told, float change) {
    const ListedValues c{{place}, {told}}, g{{place}, {change}};
    of_all[place] += change;
    own[place] += change - told;
    hidden.settle({own, of_all.data(), 0, 0, &g, nullptr}, c);
    hidden.round_over();
  }
  float aside(std::size_t i) { return hidden.values()[i]; }

  std::vector<float> own = std::vector<float>(8), of_all = std::vector<float>(8);
  Hidden hidden;
};

// The share of what is shown that one more round hides.
float share_of(Member& member) {
  member.own[7] = member.of_all[7] + 1;
  const float before = member.aside(7);
  member.round(0, 0, 0);
  return member.aside(7) - before;
}

TEST(Hidden, AShareOfWhatTheModelShowsIsHidden) {
  Member member(0.25);
  member.own[3] = 16;
  member.round(0, 0, 0);
  EXPECT_EQ(member.own[3], 12);
  EXPECT_EQ(member.aside(3), 4);
}

TEST(Hidden, WhatIsHiddenIsToldFirst) {
  Member member(0);
  member.own[3] = 12;
  member.hidden.values()[3] = 4;
  member.round(3, 10, 5);  // of the 10, 4 were hidden, and 6 leave the model
  EXPECT_EQ(member.aside(3), 0);
  EXPECT_EQ(member.own[3], 12 - 6 + 5);
  member.hidden.values()[3] = 4;
  member.round(3, 1, 0);
  EXPECT_EQ(member.aside(3), 3);
  EXPECT_EQ(member.own[3], 11);
}

TEST(Hidden, WhatIsHiddenTheOtherWayRoundIsNotTold) {
  Member member(0);
  member.own[3] = 12;
  member.hidden.values()[3] = -4;
  member.round(3, 10, 0);
  EXPECT_EQ(member.aside(3), -4);
  EXPECT_EQ(member.own[3], 2);
}

// A product of the two would be 0.
TEST(Hidden, TheSignsOfTheSmallestNumbersCount) {
  Member member(0);
  member.hidden.values()[3] = 1e-30f;
  member.round(3, 1e-30f, 0);
  EXPECT_EQ(member.aside(3), 0);
}

// NaN times a share is NaN: it would stay there.
TEST(Hidden, NothingIsHiddenWhileAParameterIsNotFinite) {
  Member member(0.5);
  member.own[3] = 16;
  member.own[5] = std::nanf("");
  member.round(0, 0, 0);
  EXPECT_EQ(member.aside(3), 0);
  EXPECT_EQ(member.own[3], 16);
}

// Somebody told no signs: what all said is no list.
TEST(Hidden, WhereTheWeightsWentIsKnownOfWholeVectorsToo) {
  Member member({});
  for (int round = 0; round < 2000; ++round) {
    const float there = round % 2 == 0 ? 1.0f : -1.0f;
    std::vector<float> mean(8);
    mean[1] = there;
    const ListedValues c{{1}, {there}};
    member.hidden.settle({member.own, member.of_all.data(), 0, 0, nullptr, mean.data()}, c);
    member.hidden.round_over();
  }
  EXPECT_LT(share_of(member), 0.2f);
  member.hidden.begin_anew();
  EXPECT_FLOAT_EQ(share_of(member), 0.5f);
}

TEST(Hidden, AllCanBeShownAgain) {
  Member member(0.5);
  member.own = std::vector<float>(8, 16);
  member.round(0, 0, 0);
  member.hidden.show(2, std::span(member.own).subspan(2, 3));
  EXPECT_EQ(member.own, (std::vector<float>{8, 8, 16, 16, 16, 8, 8, 8}));
  for (std::size_t i = 0; i < 8; ++i) EXPECT_EQ(member.aside(i), i >= 2 && i < 5 ? 0 : 8);
}

TEST(Hidden, LessIsHiddenWhileWhatIsToldGoesBackWhereTheWeightsCameFrom) {
  Member onwards({}), back({}), given(0.5);
  for (int round = 0; round < 2000; ++round) {
    const float there = round % 2 == 0 ? 1.0f : -1.0f;
    onwards.round(1, 1, 1);
    back.round(1, there, there);
    given.round(1, there, there);
  }
  EXPECT_EQ(share_of(onwards), 0.5f);
  EXPECT_LT(share_of(back), 0.2f);
  EXPECT_EQ(share_of(given), 0.5f);
}

}  // namespace
}  // namespace stella
