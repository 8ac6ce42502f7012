// rule="local" called directly, as the pipeline calls it: several members' in one thread, without a network.
#include "engine/local_rule.hpp"

#include <gtest/gtest.h>

#include <chrono>
#include <cmath>
#include <limits>
#include <memory>
#include <string>
#include <vector>

#include "engine/members.hpp"
#include "kernels/kernel_testing.hpp"
#include "net/test_thread.hpp"

namespace stella {
namespace {

using namespace testing;

EngineOptions options_of(const std::string& wire, std::size_t fragment_values = 256) {
  EngineOptions options;
  options.rule = "local";
  options.wire = wire;
  options.bucket_bytes = fragment_values * sizeof(float);
  return options;
}

struct LocalMember {
  LocalMember(Rank own, const std::vector<std::int64_t>& sizes, const EngineOptions& options)
      : rank(own),
        model(sizes),
        hides(options.wire == "signs" && options.pull != 0.0),
        rule(model.specs, options, own, [](Rank other) { return "member " + std::to_string(other); }) {
    rule.read_parameters(model.weight_pointers);
    rule.weights_loaded(0);
  }
  StepInput input() {
    StepInput input;
    input.parameters = model.weight_pointers;
    input.samples = weight;
    return input;
  }
  std::shared_ptr<Step> begin(Iteration round) {
    auto step = std::make_shared<Step>(round, Level::active, input(), 1);
    if (rule.copy(0, step->input)) {
      rule.drop(0, step->input);
      step->skip = true;
    }
    return step;
  }
  // The weights of all, by tensor and element.
  float weight_of_all(std::size_t tensor, std::size_t i) { return of_state("weights", tensor, i); }
  // What is hidden from its model.
  float hidden(std::size_t tensor, std::size_t i) { return hides ? of_state("hidden", tensor, i) : 0; }
  float of_state(const std::string& name, std::size_t tensor, std::size_t i) {
    for (const StateArray& array : rule.state()) {
      if (array.name == name && array.tensor == tensor && i >= array.begin && i < array.begin + array.numel)
        return static_cast<const float*>(array.data)[i - array.begin];
    }
    ADD_FAILURE() << "no " << name << " " << i << " of tensor " << tensor;
    return 0;
  }

  const Rank rank;
  Model model;
  double weight = 1;
  bool hides;
  LocalRule rule;
};

struct LocalWorld {
  LocalWorld(std::uint32_t world_size, const std::vector<std::int64_t>& sizes, const EngineOptions& options) {
    for (Rank rank = 0; rank < world_size; ++rank)
      members.push_back(std::make_unique<LocalMember>(rank, sizes, options));
  }
  // `between`: what members do while their payloads are on the way.
  void round(const std::function<void(LocalMember&)>& between = [](LocalMember&) {}) {
    ++rounds;
    std::vector<std::shared_ptr<Step>> steps;
    for (auto& member : members) steps.push_back(member->begin(rounds));
    std::vector<PayloadPtr> payloads;
    for (Rank rank = 0; rank < members.size(); ++rank)
      payloads.push_back(members[rank]->rule.contribute(0, *steps[rank]));
    for (auto& member : members) between(*member);
    for (auto& member : members) {
      member->rule.apply(0, member->rule.merge(0, {rounds, payloads, {}}));
      member->rule.publish(0, rounds, member->model.weight_pointers);
    }
  }
  LocalMember& operator[](Rank rank) { return *members[rank]; }

  std::vector<std::unique_ptr<LocalMember>> members;
  Iteration rounds = 0;
};

template <class Change>
void for_each_weight(LocalMember& member, Change change) {
  for (std::size_t tensor = 0; tensor < member.model.weights.size(); ++tensor) {
    for (std::size_t i = 0; i < member.model.weights[tensor].size(); ++i)
      change(member.model.weights[tensor][i], tensor, i);
  }
}

const std::vector<std::int64_t> kSizes{1000, 1, 64, 63, 65, 7};

TEST(LocalRule, InFp32EverybodyGetsTheMeanOfWhatAllLearned) {
  LocalWorld world(4, kSizes, options_of("fp32", 1 << 20));
  for (Rank rank = 0; rank < 4; ++rank)
    for_each_weight(world[rank], [&](float& weight, std::size_t tensor, std::size_t i) {
      weight += static_cast<float>(rank + tensor + i);
    });
  world.round();
  world.round();  // two fragments are the model
  for (auto& member : world.members) {
    for_each_weight(*member, [&](float weight, std::size_t tensor, std::size_t i) {
      const float mean = static_cast<float>(tensor + i) + 1.5f;
      ASSERT_EQ(weight, mean);
      ASSERT_EQ(member->weight_of_all(tensor, i), mean);
    });
  }
}

TEST(LocalRule, WeightsSayHowMuchAMemberCounts) {
  LocalWorld world(2, {200}, options_of("fp32", 1 << 20));
  world[0].weight = 3;
  for_each_weight(world[0], [](float& weight, auto...) { weight = 4; });
  for_each_weight(world[1], [](float& weight, auto...) { weight = 8; });
  world.round();
  world.round();
  for (auto& member : world.members)
    for_each_weight(*member, [](float weight, auto...) { ASSERT_FLOAT_EQ(weight, 5); });
}

// A member's own weights keep all that it learned while its payload was under way.
TEST(LocalRule, WhatIsLearnedWhileARoundIsUnderWayStaysWithItsMember) {
  LocalWorld world(2, {128}, options_of("fp32", 1 << 20));
  for_each_weight(world[0], [](float& weight, auto...) { weight = 2; });
  const auto learn = [](LocalMember& member) {
    for_each_weight(member, [](float& weight, auto...) { weight += 16; });
  };
  world.round(learn);  // the first half of the model
  for_each_weight(world[0], [](float weight, std::size_t, std::size_t i) {
    ASSERT_EQ(weight, i < 64 ? 1 + 16 : 2 + 16);
  });
  for_each_weight(world[1], [](float weight, std::size_t, std::size_t i) {
    ASSERT_EQ(weight, i < 64 ? 1 + 16 : 0 + 16);
  });
}

// What each member learned, by tensor and element, and what they have told of that, as much as each counts:
// all but what they hold.
class Learned {
 public:
  explicit Learned(LocalWorld& world) : world_(world), learned_(world.members.size()) {
    for (auto& of_member : learned_)
      for (const std::int64_t size : kSizes) of_member.emplace_back(size, 0.0);
  }
  void add(LocalMember& member, float& weight, std::size_t tensor, std::size_t i, float value) {
    weight += value;
    learned_[member.rank][tensor][i] += value;
  }
  // x_i - W + e_i is what member i holds.
  double told(std::size_t tensor, std::size_t i) {
    double sum = 0;
    for (auto& member : world_.members) {
      const double held = double{member->model.weights[tensor][i]} - member->weight_of_all(tensor, i);
      sum += member->weight * (learned_[member->rank][tensor][i] - held - member->hidden(tensor, i));
    }
    return sum;
  }

 private:
  LocalWorld& world_;
  std::vector<std::vector<std::vector<double>>> learned_;  // by rank
};

// Integers, and a number of members by which fp32 divides exactly. W is the mean of what all told.
TEST(LocalRule, LearnedIsToldPlusHeldExactlyForEachWeightUnderAnyChangeOfSizes) {
  Random random(seed());
  for (const std::uint32_t world_size : {1u, 2u, 4u}) {
    LocalWorld world(world_size, kSizes, options_of("fp32", 256));
    Learned learned(world);
    const auto learn = [&](LocalMember& member) {
      for_each_weight(member, [&](float& weight, std::size_t tensor, std::size_t i) {
        learned.add(member, weight, tensor, i,
                    static_cast<float>(static_cast<int>(random() % 65) - 32) * 1024);
      });
    };
    for (int step = 0; step < 40; ++step) {
      for (auto& member : world.members) {
        learn(*member);
        member->rule.ask_for({1 + random() % 12, 1});
      }
      world.round(learn);
    }
    for_each_weight(world[0], [&](float, std::size_t tensor, std::size_t i) {
      const double of_all = world[0].weight_of_all(tensor, i);
      for (auto& member : world.members) ASSERT_EQ(member->weight_of_all(tensor, i), of_all);
      ASSERT_EQ(learned.told(tensor, i), world_size * of_all) << tensor << " " << i;
    });
  }
}

// Up to the rounding of fp32: steps of signs are no integers. Members may count differently, hide different
// shares, and one may tell codes: those rounds are no lists.
TEST(LocalRule, WithSignsLearnedIsToldPlusHeldPlusHiddenUnderAnyChangeOfSizes) {
  Random random(seed());
  for (const std::string wire_of_one : {"signs", "int8"}) {
    LocalWorld world(4, kSizes, options_of("signs", 256));
    double weights = 0;
    for (auto& member : world.members) {
      EngineOptions options = options_of(member->rank == 1 ? wire_of_one : "signs", 256);
      if (member->rank > 1) options.pull = 0.25 * member->rank;
      member = std::make_unique<LocalMember>(member->rank, kSizes, options);
      member->weight = 1 + member->rank;
      weights += member->weight;
    }
    Learned learned(world);
    for (int step = 0; step < 400; ++step) {
      for (auto& member : world.members) {
        for_each_weight(*member, [&](float& weight, std::size_t tensor, std::size_t i) {
          learned.add(*member, weight, tensor, i, normal(random, 1).front());
        });
        member->rule.ask_for({1 + random() % 12, 0});
      }
      world.round();
      for (auto& member : world.members) ASSERT_EQ(member->rule.digest(), world[0].rule.digest());
    }
    double hidden = 0;
    for_each_weight(world[0], [&](float, std::size_t tensor, std::size_t i) {
      ASSERT_NEAR(learned.told(tensor, i), weights * world[0].weight_of_all(tensor, i), 0.01)
          << wire_of_one << " " << tensor << " " << i;
      for (auto& member : world.members) hidden += std::fabs(member->hidden(tensor, i));
    });
    EXPECT_GT(hidden, 0);
  }
}

// The link has become quick, or the end has come.
TEST(LocalRule, WhatIsHiddenIsShownWhereCodesAreTold) {
  LocalWorld world(2, {64 * 4}, options_of("auto", 1 << 20));
  for (auto& member : world.members) member->hides = true;
  const auto hidden = [&] {
    double sum = 0;
    for_each_weight(world[0],
                    [&](float, std::size_t t, std::size_t i) { sum += std::fabs(world[0].hidden(t, i)); });
    return sum;
  };
  for (int round = 0; round < 8; ++round) {
    for (auto& member : world.members)
      for_each_weight(*member,
                      [&](float& weight, std::size_t, std::size_t i) { weight += static_cast<float>(i); });
    world.round();
  }
  EXPECT_GT(hidden(), 0);
  for (auto& member : world.members) member->rule.ask_for({2, 8});
  for (int round = 0; round < 8; ++round) world.round();
  EXPECT_EQ(hidden(), 0);
  for_each_weight(world[0], [&](float, std::size_t tensor, std::size_t i) {
    ASSERT_NEAR(world[0].weight_of_all(tensor, i), 8.0 * static_cast<double>(i), 0.01 * 8 * 256);
  });
}

// Who tells fp32, of nothing, makes the others' lists whole vectors.
TEST(LocalRule, ListsAddUpToTheSameWeightsAsWholeVectors) {
  Random random(seed());
  LocalWorld lists(3, kSizes, options_of("signs", 512)), vectors(3, kSizes, options_of("signs", 512));
  vectors.members[2] = std::make_unique<LocalMember>(2, kSizes, options_of("fp32", 512));
  for (int round = 0; round < 50; ++round) {
    for (const Rank rank : {0u, 1u}) {
      for_each_weight(lists[rank], [&](float& weight, auto...) { weight += normal(random, 1).front(); });
      vectors[rank].model.weights = lists[rank].model.weights;
    }
    lists.round();
    vectors.round();
    ASSERT_EQ(vectors[0].rule.digest(), lists[0].rule.digest());
    ASSERT_EQ(vectors[2].rule.digest(), lists[0].rule.digest());
    ASSERT_EQ(vectors[2].model.weights, lists[2].model.weights);
  }
}

// Of what it learned while the round was under way, the share that is hidden, and told next time.
TEST(LocalRule, WhatIsPulledBackIsToldWithTheNextRoundOfItsFragment) {
  EngineOptions options = options_of("signs", 1 << 20);
  options.pull = 0.25;
  LocalWorld world(2, {128}, options);
  world.round([](LocalMember& member) {
    if (member.rank != 0) return;
    member.model.weights[0][0] = 16;
    member.model.weights[0][127] = 8;
  });
  const auto expect = [&](std::size_t i, float own, float hidden, float of_all) {
    EXPECT_EQ(world[0].model.weights[0][i], own);
    EXPECT_EQ(world[0].hidden(0, i), hidden);
    EXPECT_EQ(world[0].weight_of_all(0, i), of_all);
  };
  expect(0, 12, 4, 0);
  expect(127, 8, 0, 0);  // the other half of the model was not in the round
  world.round();
  expect(0, 12, 4, 0);
  expect(127, 4, 0, 4);
  world.round();
  expect(0, 8, 0, 8);
  EXPECT_EQ(world[1].model.weights[0][0], 8);
}

// As a member that is left out sees it: its contribution was for nothing, and the others' weights come later.
TEST(LocalRule, WhatAMemberThatWasLeftOutLearnedIsStillItsOwnWhenItAdoptsTheWeightsOfTheOthers) {
  LocalWorld world(3, {64 * 4}, options_of("fp32", 1 << 20));
  const auto learn = [](LocalMember& member, float value) {
    for_each_weight(member, [&](float& weight, auto...) { weight += value; });
  };
  for (Rank rank = 0; rank < 3; ++rank) learn(world[rank], static_cast<float>(8 * rank));
  std::vector<std::shared_ptr<Step>> steps;
  std::vector<PayloadPtr> payloads;
  for (Rank rank = 0; rank < 3; ++rank) {
    steps.push_back(world[rank].begin(1));
    payloads.push_back(world[rank].rule.contribute(0, *steps.back()));
  }
  payloads[2] = nullptr;
  for (Rank rank = 0; rank < 3; ++rank) {
    const Gathered gathered{1, rank == 2 ? std::vector<PayloadPtr>(3) : payloads, {}};
    world[rank].rule.apply(0, world[rank].rule.merge(0, gathered));
    world[rank].rule.publish(0, 1, world[rank].model.weight_pointers);
  }
  EXPECT_EQ(world[0].weight_of_all(0, 0), 4);  // the mean of 0 and 8
  EXPECT_EQ(world[2].weight_of_all(0, 0), 0);
  EXPECT_EQ(world[2].model.weights[0][0], 16);
  auto theirs = world[2].rule.blank();
  std::ranges::copy(world[0].rule.weights(), theirs->weights().begin());
  theirs->weights_loaded(1);
  world[2].rule.adopt(std::move(theirs), world[2].model.weight_pointers);
  for_each_weight(world[2], [&](float weight, std::size_t tensor, std::size_t i) {
    ASSERT_EQ(weight, world[2].weight_of_all(tensor, i) + 16);
  });
  EXPECT_EQ(world[2].rule.digest(), world[0].rule.digest());
}

TEST(LocalRule, ConsensusWeightsAreTheSameEverywhereAndFollowWhatIsLearnedInEveryCoding) {
  for (const std::string wire : {"fp32", "bf16", "int8", "int4", "int2", "int1", "signs"}) {
    LocalWorld world(3, kSizes, options_of(wire, 512));
    const int steps = wire == "signs" ? 1500 : 60;  // each round tells of one value in 64
    for (int step = 0; step < steps; ++step) {
      for (auto& member : world.members)
        for_each_weight(*member, [&](float& weight, std::size_t, std::size_t i) {
          weight += 0.1f * (std::sin(static_cast<float>(i)) - weight);  // all pull to the same place
        });
      world.round();
      for (Rank rank = 1; rank < 3; ++rank) ASSERT_EQ(world[rank].rule.digest(), world[0].rule.digest());
    }
    double error = 0, size = 0;
    for_each_weight(world[0], [&](float, std::size_t tensor, std::size_t i) {
      const double aim = std::sin(static_cast<float>(i));
      error += std::pow(world[0].weight_of_all(tensor, i) - aim, 2);
      size += aim * aim;
    });
    EXPECT_LT(std::sqrt(error / size), 0.1) << wire;
  }
}

TEST(LocalRule, AMemberWhoseWeightsAreNotFiniteIsLeftOutAndNamesTheTensor) {
  LocalWorld world(2, {100, 100}, options_of("int1", 1 << 20));
  for (auto& member : world.members) for_each_weight(*member, [](float& weight, auto...) { weight = 1; });
  world[1].model.weights[1][7] = std::nanf("");
  Step step(1, Level::active, world[1].input(), 1);
  EXPECT_EQ(world[1].rule.copy(0, step.input), std::nullopt);  // the first half holds the first tensor
  Step second(2, Level::active, world[1].input(), 1);
  EXPECT_EQ(world[1].rule.copy(0, second.input), 1u);
  LocalWorld other(2, {64}, options_of("fp32"));
  other[0].model.weights[0][0] = 2;
  other[1].model.weights[0][3] = std::numeric_limits<float>::infinity();
  other.round();
  EXPECT_EQ(other[0].weight_of_all(0, 0), 2);  // the mean over those that contributed
  EXPECT_EQ(other[1].weight_of_all(0, 0), 2);
  EXPECT_EQ(other[0].weight_of_all(0, 3), 0);
}

// As if they had come over links that needed so many seconds, whenever their members began.
std::vector<PayloadPtr> received(const std::vector<PayloadPtr>& payloads,
                                 const std::vector<int>& milliseconds) {
  std::vector<PayloadPtr> all;
  for (std::size_t rank = 0; rank < payloads.size(); ++rank)
    all.push_back(std::make_shared<const Payload>(payloads[rank]->bytes(),
                                                  std::chrono::milliseconds(milliseconds[rank])));
  return all;
}

TEST(LocalRule, MeasuresTheSlowestLinkOfEachWholeRoundOnce) {
  LocalWorld world(3, {1000}, options_of("int4", 256));  // fragments of 4, 4, 4 and 4 of 16 blocks
  EXPECT_FALSE(world[0].rule.newly_measured());
  std::vector<std::shared_ptr<Step>> steps;
  std::vector<PayloadPtr> payloads;
  for (Rank rank = 0; rank < 3; ++rank) {
    steps.push_back(world[rank].begin(1));
    payloads.push_back(world[rank].rule.contribute(0, *steps.back()));
  }
  world[0].rule.apply(0, world[0].rule.merge(0, {1, received(payloads, {0, 30, 20}), {}}));
  const auto measured = world[0].rule.newly_measured();
  ASSERT_TRUE(measured);
  EXPECT_EQ(measured->size, (RoundSize{4, 0}));
  EXPECT_DOUBLE_EQ(measured->seconds, 0.03);
  EXPECT_FALSE(world[0].rule.newly_measured());
}

TEST(LocalRule, TheLeastSizeThatAnybodyAsksForHoldsThreeRoundsLater) {
  LocalWorld world(3, {64 * 100}, options_of("auto", 64 * 10));
  const std::vector<RoundSize> wanted{{30, 4}, {5, 32}, {20, 8}};
  for (Rank rank = 0; rank < 3; ++rank) world[rank].rule.ask_for(wanted[rank]);
  for (int round = 0; round < 4; ++round) world.round();
  for (auto& member : world.members) {
    EXPECT_EQ(member->rule.schedule().last().blocks, 5u);
    EXPECT_EQ(member->rule.schedule().size(), (RoundSize{5, 4}));
  }
}

// A slow link is measured at its far end: who sends over it learns of it by what the others ask for.
TEST(LocalRule, AMemberSendsAsManyBitsAsAllAskForUnlessItsUserChose) {
  for (const std::string wire : {"auto", "int8"}) {
    LocalWorld world(2, {64 * 100}, options_of(wire, 64 * 10));
    world[0].rule.ask_for({10, 4});
    world[1].rule.ask_for({10, 2});
    for (int round = 0; round < 3; ++round) world.round();
    const auto step = world[0].begin(4);
    const auto sent = world[0].rule.contribute(0, *step);
    const std::size_t bits = sent->body().size() * 8 / (10 * 64);
    EXPECT_EQ(bits, wire == "auto" ? 2u : 8u);
  }
}

TEST(LocalRule, BeforeTheEndMembersTellFinelyWhateverIsAskedFor) {
  LocalMember member(0, {64 * 100}, options_of("auto", 64 * 10));
  member.rule.tell_finely();
  const auto step = member.begin(1);
  EXPECT_GT(member.rule.contribute(0, *step)->body().size(), 10u * 64);
}

TEST(LocalRule, AnotherFragmentThanOursIsABreachThatNamesItsMember) {
  LocalMember here(0, kSizes, options_of("int1", 256)), there(1, kSizes, options_of("int1", 128));
  const auto mine = here.begin(1), theirs = there.begin(1);
  const std::vector<PayloadPtr> payloads{here.rule.contribute(0, *mine), there.rule.contribute(0, *theirs)};
  const Error error = error_of([&] { here.rule.merge(0, {1, payloads, {}}); });
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_TRUE(
      contains(error.what(), "member 1 in round 1: its fragment is 2 blocks from 0, here it is 4 from 0"))
      << error.what();
}

TEST(LocalRule, ADigestThatDiffersIsAMismatchThatNamesItsMember) {
  LocalWorld world(2, kSizes, options_of("fp32", 256));
  world[1].rule.weights()[0] = 1;
  world[1].rule.weights_loaded(0);
  const Error error = error_of([&] { world.round(); });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_TRUE(contains(error.what(), "the consensus weights after round 0 are not those of member 1"))
      << error.what();
}

}  // namespace
}  // namespace stella
