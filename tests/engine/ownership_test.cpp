// Whose memory is whose: the trainer's until step() begins and once it has returned, the engine's in between.
#include <gtest/gtest.h>

#include <limits>
#include <vector>

#include "engine/members.hpp"

namespace stella {
namespace {

using testing::Model;
using testing::run_members;
using testing::sgd;
using testing::small_buckets;

constexpr float kPoison = std::numeric_limits<float>::quiet_NaN();

// Payloads of several buckets are still queued and on the wire when step() returns; the trainer's next
// backward pass overwrites the gradients at once.
TEST(Ownership, GradientsMayBeOverwrittenAsSoonAsStepReturns) {
  run_members(3, [](Session& session, std::uint32_t rank) {
    Model model({20000, 17, 5000});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 1), model.weight_pointers);
    constexpr int kSteps = 50;
    for (int step = 0; step < kSteps; ++step) {
      model.fill_gradients(static_cast<float>(rank));  // the mean over the members is 1
      engine->step(model.input(groups));
      model.fill_gradients(kPoison);
    }
    engine->drain(Level::finished, model.weight_pointers, groups);
    for (const auto& tensor : model.weights) {
      for (const float weight : tensor) ASSERT_EQ(weight, -kSteps);
    }
    engine.reset();
    session.leave();
  });
}

// A forward pass between two steps sees one set of weights, whatever arrives and is applied meanwhile.
TEST(Ownership, ParametersChangeInsideOfStepOnly) {
  run_members(2, [](Session& session, std::uint32_t) {
    Model model({20000, 17, 5000});
    const std::vector<GroupSettings> groups{sgd(1)};
    auto engine = session.distribute(model.specs, groups, small_buckets(1, 1), model.weight_pointers);
    for (int step = 0; step < 20; ++step) {
      model.fill_gradients(1);
      engine->step(model.input(groups));
      const auto seen = model.weights;
      engine->quiesce();  // this step's update is in the consensus weights now
      ASSERT_EQ(model.weights, seen);
      ASSERT_EQ(seen[0][0], static_cast<float>(-step));  // and the one before it in the parameters
    }
    engine->drain(Level::finished, model.weight_pointers, groups);
    engine.reset();
    session.leave();
  });
}

}  // namespace
}  // namespace stella
