// What happens when a member ends, misbehaves or gives up at any point. Nobody hangs, and everybody's error
// says who it was.
#include <gtest/gtest.h>

#include <array>
#include <cstring>

#include "engine/layout.hpp"
#include "engine/members.hpp"
#include "engine/sparse_engine.hpp"
#include "membership/member_process.hpp"

namespace stella::testing {
namespace {

TEST(EngineFailure, AnEngineMayGoInTheMiddleOfIterations) {
  for (int round = 0; round < 10; ++round) {
    outcomes_of_members(3, [&](Session& session, std::uint32_t rank) {
      Model model({3000, 500, 40});
      const std::vector<GroupSettings> groups{sgd(1)};
      auto engine = session.distribute(model.specs, groups, small_buckets(0.5, 1), model.weight_pointers);
      const int steps = round + static_cast<int>(rank == 1 ? 0 : 3);
      for (int step = 0; step < steps; ++step) engine->step(model.input(groups));
    });
  }
}

TEST(EngineFailure, TheTrainersMemoryMayGoOnceAStepHasThrown) {
  const auto outcomes = outcomes_of_members(2, [&](Session& session, std::uint32_t rank) {
    auto model = std::make_unique<Model>(std::vector<std::int64_t>{20'000, 500});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model->specs, groups, small_buckets(1, 1), model->weight_pointers);
    try {
      for (int step = 0; step < 20 || rank == 0; ++step) engine->step(model->input(groups));
    } catch (const Error&) {
      model.reset();
      throw;
    }
  });
  EXPECT_NE(sentence_of(outcomes[0]), "");
}

TEST(EngineFailure, NoStepIsPossibleAfterTheSessionWasAborted) {
  const auto outcomes = outcomes_of_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({500});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 0), model.weight_pointers);
    if (rank == 1) session.abort("KeyboardInterrupt");
    engine->step(model.input(groups));
  });
  EXPECT_TRUE(contains(sentence_of(outcomes[0]), "member 1 (")) << sentence_of(outcomes[0]);
  EXPECT_TRUE(contains(sentence_of(outcomes[0]), "KeyboardInterrupt")) << sentence_of(outcomes[0]);
  EXPECT_TRUE(contains(sentence_of(outcomes[1]), "cancelled: ")) << sentence_of(outcomes[1]);
}

TEST(EngineFailure, AMemberThatCannotStartTellsTheOthersWhy) {
  const auto outcomes = outcomes_of_members(2, [&](Session& session, std::uint32_t rank) {
    Model model({500});
    const std::vector<GroupSettings> groups{sgd(1)};
    EngineOptions options = small_buckets(1, 0);
    if (rank == 1) options.selector = "best";
    try {
      session.distribute(model.specs, groups, options, model.weight_pointers);
    } catch (const Error&) {
      // Its session lives on, as in a notebook; the other must not wait for it.
      if (rank == 1) {
        EXPECT_THROW(session.all_gather("later", {}), Error);
      }
      throw;
    }
  });
  EXPECT_TRUE(contains(sentence_of(outcomes[0]), "member 1 (")) << sentence_of(outcomes[0]);
  EXPECT_TRUE(contains(sentence_of(outcomes[0]), "best")) << sentence_of(outcomes[0]);
  EXPECT_TRUE(contains(sentence_of(outcomes[1]), "invalid_argument")) << sentence_of(outcomes[1]);
}

TEST(EngineFailure, ATimeoutThatNoClockCouldKeepIsRefused) {
  SessionOptions options;
  options.join_timeout_seconds = 1e-9;
  try {
    Session session(options);
    FAIL() << "it was taken";
  } catch (const Error& error) {
    EXPECT_TRUE(contains(error.what(), "the join timeout is 1e-09 s; it must be at least 0.001"))
        << error.what();
  }
}

// Something that one member does while another waits for it to be over, however it ends.
class Act {
 public:
  // The actor keeps it: what it returns ends the act when it goes.
  std::promise<void> begin() { return std::move(promise_); }
  void wait_until_over() const { over_.wait(); }

 private:
  std::promise<void> promise_;
  std::shared_future<void> over_ = promise_.get_future().share();
};

// What a signal does to the thread that sets it.
thread_local bool interrupted = false;

TEST(EngineFailure, AMemberMayBeInterruptedWhileItComparesItsStateWithTheOthers) {
  SessionOptions common;
  common.while_waiting = [] {
    if (interrupted) throw std::runtime_error("KeyboardInterrupt");
  };
  Act comparison;
  const auto body = [&comparison](Session& session, std::uint32_t rank) {
    Model model({500});
    const std::vector<GroupSettings> groups{sgd(1)};
    std::promise<void> act;
    if (rank == 0) act = comparison.begin();
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 1), model.weight_pointers);
    if (rank == 1) {
      comparison.wait_until_over();
      for (;;) engine->step(model.input(groups));
    }
    interrupted = true;
    EXPECT_THROW(engine->state_loaded(7, model.weight_pointers), std::runtime_error);
    interrupted = false;
    act.set_value();
    engine->step(model.input(groups));
  };
  const auto outcomes = outcomes_of_members(2, body, common);
  EXPECT_EQ(sentence_of(outcomes[0]), "cancelled: it was interrupted");
  EXPECT_TRUE(contains(sentence_of(outcomes[1]), "member 0 (")) << sentence_of(outcomes[1]);
  EXPECT_TRUE(contains(sentence_of(outcomes[1]), "stopped: it was interrupted")) << sentence_of(outcomes[1]);
}

// Member 1 lets an iteration be under way for ever, while member 0 is interrupted in another call.
TEST(EngineFailure, AMemberThatWasInterruptedInACollectiveWaitsForNothingAnyMore) {
  SessionOptions common;
  common.while_waiting = [] {
    if (interrupted) throw std::runtime_error("KeyboardInterrupt");
  };
  Act interruption;
  const auto body = [&interruption](Session& session, std::uint32_t rank) {
    Model model({500});
    const std::vector<GroupSettings> groups{sgd(1)};
    std::promise<void> act;
    if (rank == 0) act = interruption.begin();
    EngineOptions options = small_buckets(1, 1);
    options.step_timeout_seconds = 20;
    auto engine = session.distribute(model.specs, groups, options, model.weight_pointers);
    if (rank == 1) return interruption.wait_until_over();
    engine->step(model.input(groups));
    interrupted = true;
    EXPECT_THROW(session.all_gather("mean", {}), std::runtime_error);
    interrupted = false;
    engine->digest();
  };
  const auto outcomes = outcomes_of_members(2, body, common);
  EXPECT_EQ(sentence_of(outcomes[0]), "cancelled: this member stopped: it was interrupted");
}

// Member 1 is silent where the others do `what`, until they have given it up.
std::vector<std::string> sentences_when_one_is_silent_in(
    const std::function<void(Session&, Engine&, Model&, const std::vector<GroupSettings>&)>& what) {
  Act collective;
  const auto body = [&](Session& session, std::uint32_t rank) {
    Model model({500});
    const std::vector<GroupSettings> groups{sgd(1)};
    EngineOptions options = small_buckets(1, 1);
    options.step_timeout_seconds = 2;
    std::promise<void> act;
    if (rank == 0) act = collective.begin();
    auto engine = session.distribute(model.specs, groups, options, model.weight_pointers);
    engine->drain(Level::finished, model.weight_pointers, groups);
    if (rank == 1) {
      collective.wait_until_over();
      // Until it is told: a step is another call than that in which others may still wait.
      for (;;) engine->digest();
    }
    what(session, *engine, model, groups);
  };
  std::vector<std::string> sentences;
  for (const auto& outcome : outcomes_of_members(3, body)) sentences.push_back(sentence_of(outcome));
  return sentences;
}

TEST(EngineFailure, AMemberThatIsSilentInACollectiveIsNamedByAllAfterTheStepTimeout) {
  const auto start = std::chrono::steady_clock::now();
  const auto average = [](Session& session, Engine&, Model&, const auto&) {
    session.all_gather("buffers", {});
  };
  const auto load = [](Session&, Engine& engine, Model& model, const auto&) {
    engine.state_loaded(7, model.weight_pointers);
  };
  for (const std::string& sentence : sentences_when_one_is_silent_in(average)) {
    EXPECT_TRUE(contains(sentence, " for member 1 (m1")) << sentence;
    EXPECT_TRUE(contains(sentence, "all_gather \"buffers\"")) << sentence;
    EXPECT_TRUE(contains(sentence, " waited 2 s in ")) << sentence;
    EXPECT_TRUE(contains(sentence, "STELLA_STEP_TIMEOUT")) << sentence;
  }
  for (const std::string& sentence : sentences_when_one_is_silent_in(load)) {
    EXPECT_TRUE(contains(sentence, " for member 1 (m1")) << sentence;
    EXPECT_TRUE(contains(sentence, "all_gather \"state loaded\"")) << sentence;
  }
  EXPECT_LT(std::chrono::steady_clock::now() - start, 30s);
}

TEST(EngineFailure, AMemberThatNeverComesToDistributeIsNamedAfterTheStepTimeout) {
  Act start;
  const auto outcomes = outcomes_of_members(2, [&start](Session& session, std::uint32_t rank) {
    if (rank == 1) return start.wait_until_over();
    const std::promise<void> act = start.begin();
    Model model({500});
    const std::vector<GroupSettings> groups{sgd(1)};
    EngineOptions options = small_buckets(1, 1);
    options.step_timeout_seconds = 0.5;
    session.distribute(model.specs, groups, options, model.weight_pointers);
  });
  EXPECT_TRUE(contains(sentence_of(outcomes[0]), " for member 1 (m1")) << sentence_of(outcomes[0]);
  EXPECT_TRUE(contains(sentence_of(outcomes[0]), "all_gather \"model\"")) << sentence_of(outcomes[0]);
}

TEST(EngineFailure, AnEngineThatGoesWithoutFinishEndsTheRunForAllAtOnceThoughItsSessionStays) {
  Act training;
  const auto outcomes = outcomes_of_members(3, [&training](Session& session, std::uint32_t rank) {
    Model model({500});
    const std::vector<GroupSettings> groups{sgd(1)};
    std::promise<void> act;
    if (rank == 0) act = training.begin();
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 1), model.weight_pointers);
    engine->step(model.input(groups));
    if (rank == 1) {
      engine.reset();
      return training.wait_until_over();
    }
    const auto start = std::chrono::steady_clock::now();
    const Error error = error_of([&] {
      for (;;) engine->step(model.input(groups));
    });
    EXPECT_LT(std::chrono::steady_clock::now() - start, 10s);
    throw error;
  });
  for (const std::uint32_t rank : {0u, 2u}) {
    const std::string sentence = sentence_of(outcomes[rank]);
    EXPECT_TRUE(contains(sentence, "peer_lost: member 1 (")) << sentence;
    EXPECT_TRUE(contains(sentence, "it ended without finish()")) << sentence;
  }
}

TEST(EngineFailure, AfterFinishAnEngineMayGoAndAnotherModelBeTrainedInTheSameSession) {
  run_members(2, [](Session& session, std::uint32_t) {
    const std::vector<GroupSettings> groups{sgd(1)};
    for (const std::int64_t size : {500, 900}) {
      Model model({size});
      auto engine = session.distribute(model.specs, groups, small_buckets(1, 1), model.weight_pointers);
      for (int step = 0; step < 3; ++step) engine->step(model.input(groups));
      engine->drain(Level::finished, model.weight_pointers, groups);
    }
    session.leave();
  });
}

TEST(EngineFailure, AWrongStartMayBeTriedAgainAlone) {
  run_members(1, [](Session& session, std::uint32_t) {
    Model model({500});
    const std::vector<GroupSettings> groups{sgd(1)};
    EngineOptions options = small_buckets(1, 0);
    options.wire = "fp8";
    EXPECT_THROW(session.distribute(model.specs, groups, options, model.weight_pointers), Error);
    options.wire = "bf16";
    EXPECT_NO_THROW(session.distribute(model.specs, groups, options, model.weight_pointers));
  });
}

// An engine on a member whose peers are under the test's control.
std::unique_ptr<Engine> engine_of(Member& member, Model& model, const std::vector<GroupSettings>& groups) {
  const EngineOptions options = small_buckets(1, 1);
  std::vector<std::string> names;
  for (const TensorSpec& spec : model.specs) names.push_back(spec.name);
  Group& group = member.group();
  auto rule =
      std::make_unique<SparseRule>(plan_buckets(model.specs, options.bucket_bytes), names, groups, options,
                                   member.rank(), [&group](Rank rank) { return group.describe(rank); });
  rule->state_loaded(0, model.weight_pointers);
  return std::make_unique<SparseEngine>(member.net(), group, std::move(rule), model.specs, groups.size(),
                                        options);
}

// Two engines, and a third member that sends them what the test wants.
class EnginesAndARogue {
 public:
  EnginesAndARogue() {
    for (Rank rank = 0; rank < 2; ++rank)
      engines_.push_back(engine_of(*members_[rank], models_[rank], groups_));
  }
  void send(const Bytes& bytes) {
    members_[2]->net().call([&] {
      for (Rank to = 0; to < 2; ++to) {
        members_[2]->group().send_payload(to, std::make_shared<const Bytes>(bytes), {1, 0});
      }
    });
  }
  // What the engines say, sooner or later, while they step.
  std::vector<std::string> sentences() {
    std::vector<std::string> sentences(2);
    std::vector<std::thread> trainers;
    for (Rank rank = 0; rank < 2; ++rank) {
      trainers.emplace_back([this, rank, &sentences] { sentences[rank] = step_until_error(rank); });
    }
    for (auto& trainer : trainers) trainer.join();
    return sentences;
  }

 private:
  std::string step_until_error(Rank rank) {
    const Error error = error_of([&] {
      for (;;) engines_[rank]->step(models_[rank].input(groups_));
    });
    return error.what();
  }

  Members members_ = joined_members(3);
  const std::vector<GroupSettings> groups_{sgd(1)};
  std::array<Model, 2> models_{Model({100}), Model({100})};
  std::vector<std::unique_ptr<Engine>> engines_;
};

std::vector<std::string> sentences_after(const Bytes& contribution) {
  EnginesAndARogue world;
  world.send(contribution);
  return world.sentences();
}

PayloadHeader first_header() {
  PayloadHeader header;
  header.iteration = 1;
  header.samples = 1;
  header.settings = sgd(1);
  return header;
}

TEST(EngineFailure, AMemberThatSendsABrokenBodyIsNamedByAll) {
  for (const std::string& sentence : sentences_after(Payload(first_header(), bytes_of("nonsense")).bytes())) {
    EXPECT_TRUE(contains(sentence, "member 2 (c0m2")) << sentence;
    EXPECT_TRUE(contains(sentence, "iteration 1, bucket 0")) << sentence;
  }
}

TEST(EngineFailure, AMemberThatSendsABrokenHeaderIsNamedByAll) {
  for (const std::string& sentence : sentences_after(bytes_of("no header"))) {
    EXPECT_TRUE(contains(sentence, "member 2 (c0m2")) << sentence;
  }
}

TEST(EngineFailure, AMemberWithOtherWeightsIsNamedByAll) {
  PayloadHeader header = first_header();
  header.samples = 0;
  header.digest = {0, 0xbad};
  for (const std::string& sentence : sentences_after(Payload(header, {}).bytes())) {
    EXPECT_TRUE(contains(sentence, "member 2 (c0m2")) << sentence;
    EXPECT_TRUE(contains(sentence, "the weights of bucket 0")) << sentence;
  }
}

}  // namespace
}  // namespace stella::testing
