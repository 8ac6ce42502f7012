// A member that was left out hears two others, who are called directly.
#include "engine/listener.hpp"

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "engine/local_rule.hpp"
#include "engine/members.hpp"
#include "net/test_thread.hpp"

namespace stella {
namespace {

using namespace testing;

const std::vector<std::int64_t> kSizes{3000, 1, 65};

struct Two {
  Two() {
    EngineOptions options;
    options.rule = "local";
    options.wire = "auto";
    options.bucket_bytes = 64 * 8 * sizeof(float);
    for (Rank rank = 0; rank < 3; ++rank) {  // the third one is the member that hears
      models.emplace_back(kSizes);
      rules.push_back(std::make_unique<LocalRule>(
          models.back().specs, options, rank, [](Rank other) { return "member " + std::to_string(other); }));
      rules.back()->read_parameters(models.back().weight_pointers);
      rules.back()->weights_loaded(0);
    }
  }
  // A round of the first two, in which they learn, and ask for other sizes.
  Gathered round(bool contribute = true) {
    ++rounds;
    Gathered gathered{rounds, std::vector<PayloadPtr>(3), {}};
    for (Rank rank = 0; rank < 2; ++rank) {
      for (auto& tensor : models[rank].weights)
        for (float& weight : tensor) weight += static_cast<float>(rank + 1) * 0.01f;
      rules[rank]->ask_for({3 + rounds % 7 + rank, 1u << rounds % 3});
      StepInput input;
      input.parameters = models[rank].weight_pointers;
      input.skip = !contribute;
      Step step(rounds, Level::active, input, 1);
      rules[rank]->copy(0, step.input);
      gathered.payloads[rank] = rules[rank]->contribute(0, step);
    }
    for (Rank rank = 0; rank < 2; ++rank) {
      rules[rank]->apply(0, rules[rank]->merge(0, gathered));
      rules[rank]->publish(0, rounds, models[rank].weight_pointers);
    }
    return gathered;
  }
  std::vector<std::shared_ptr<const Bytes>> weights() {
    return write_weights({rounds, rules[0]->digest()}, rules[0]->weights());
  }

  std::vector<Model> models;
  std::vector<std::unique_ptr<LocalRule>> rules;
  Iteration rounds = 0;
};

void tell(Listener& listener, const std::vector<std::shared_ptr<const Bytes>>& parts) {
  for (const auto& part : parts) listener.weights(*part);
}

void listen_from_the_first_round(Listener& listener, Two& two) {
  listener.left_out();
  listener.begin(two.rules[2]->blank());
  listener.listens(1);
  tell(listener, two.weights());
}

TEST(Listener, ComesToTheWeightsOfTheOthersAndToTheirNextRound) {
  Two two;
  Listener listener;
  listener.left_out();
  EXPECT_TRUE(listener.is_out());
  for (int i = 0; i < 20; ++i) two.round();
  listener.begin(two.rules[2]->blank());
  const auto weights = two.weights();
  listener.listens(two.rounds + 1);
  listener.heard(two.round());  // may come before the weights
  tell(listener, weights);
  EXPECT_EQ(listener.newest(), std::nullopt);
  listener.hear();
  EXPECT_EQ(listener.newest(), two.rounds);
  EXPECT_FALSE(listener.is_ready());  // sizes that were asked for before may still come
  for (int i = 0; i < 6; ++i) listener.heard(two.round(/*contribute=*/i != 2));
  EXPECT_FALSE(listener.is_ready());
  listener.hear();
  EXPECT_TRUE(listener.is_ready());
  auto consensus = listener.take_consensus();
  EXPECT_EQ(consensus->digest(), (Digest{two.rounds, two.rules[0]->digest()}));
  for (int i = 0; i < 10; ++i) EXPECT_EQ(consensus->schedule().next(), two.rules[0]->schedule().next());
  listener.back();
  EXPECT_FALSE(listener.is_out());
}

TEST(Listener, WeightsOfAnotherTimeAreOfNoUse) {
  Two two;
  Listener listener;
  listener.left_out();
  two.round();
  const auto early = two.weights();
  two.round();
  listener.begin(two.rules[2]->blank());
  tell(listener, early);  // on its way since it listened before
  listener.listens(two.rounds + 1);
  tell(listener, early);
  const auto weights = two.weights();
  listener.heard(two.round());
  listener.hear();
  EXPECT_EQ(listener.newest(), std::nullopt);
  tell(listener, weights);
  listener.hear();
  EXPECT_EQ(listener.newest(), two.rounds);
}

TEST(Listener, WhoIsLeftOutOnceMoreBeginsAnew) {
  Two two;
  Listener listener;
  listener.left_out();
  listener.begin(two.rules[2]->blank());
  EXPECT_TRUE(listener.has_begun());
  listener.listens(1);
  listener.left_out();
  EXPECT_TRUE(listener.is_out());
  EXPECT_FALSE(listener.has_begun());
  tell(listener, two.weights());
  listener.hear();
  EXPECT_EQ(listener.newest(), std::nullopt);
}

// Its exchange may be told so while its trainer hears.
TEST(Listener, WhatItHearsStaysUntilItBeginsAnewThoughItIsLeftOutMeanwhile) {
  Two two;
  Listener listener;
  listen_from_the_first_round(listener, two);
  std::vector<Gathered> rounds;
  for (int i = 0; i < 200; ++i) rounds.push_back(two.round());
  for (const Gathered& round : rounds) listener.heard(round);
  std::thread network([&] { listener.left_out(); });
  listener.hear();
  network.join();
  EXPECT_FALSE(listener.has_begun());
  EXPECT_EQ(listener.newest(), std::nullopt);
}

struct Refused {
  std::string said;
  std::function<void(Bytes&)> change;
};

TEST(Listener, PartsThatAreNoneAreABreach) {
  for (const Refused& refused :
       {Refused{"32 bytes from value 4 on, where value 0", [](Bytes& part) { part[16] = std::byte{4}; }},
        Refused{"bytes from value 0 on, where value 0 of", [](Bytes& part) { part.resize(25); }},
        Refused{"bytes from value 0 on, where value 0 of", [](Bytes& part) { part.resize(24); }},
        Refused{"bytes from value 0 on, where value 0 of", [](Bytes& part) { part.resize(1 << 20); }},
        Refused{"a part of weights", [](Bytes& part) { part.resize(7); }}}) {
    Two two;
    Listener listener;
    listener.left_out();
    listener.begin(two.rules[2]->blank());
    listener.listens(1);
    Bytes part = *two.weights().front();
    if (refused.said.starts_with("32")) part.resize(24 + 32);
    refused.change(part);
    const Error error = error_of([&] { listener.weights(part); });
    EXPECT_EQ(error.code(), ErrorCode::protocol);
    EXPECT_NAMES(error, refused.said);
  }
}

TEST(Listener, WeightsThatAreNotThoseThatWereSentAreAMismatch) {
  Two two;
  Listener listener;
  listener.left_out();
  listener.begin(two.rules[2]->blank());
  listener.listens(1);
  Bytes part = *two.weights().front();
  part.back() ^= std::byte{1};
  listener.weights(part);
  listener.heard(two.round());
  const Error error = error_of([&] { listener.hear(); });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "after round 0 are not those that were sent");
}

TEST(Listener, ARoundThatIsNotTheNextOneIsABreach) {
  Two two;
  Listener listener;
  listen_from_the_first_round(listener, two);
  two.round();
  listener.heard(two.round());
  EXPECT_NAMES(error_of([&] { listener.hear(); }), "round 2 comes after round 0");
}

}  // namespace
}  // namespace stella
