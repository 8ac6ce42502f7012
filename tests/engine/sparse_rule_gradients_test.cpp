// What a member's gradients may be: of sixteen bits, huge, absent, or no numbers.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "engine/rule_members.hpp"
#include "engine/sparse_rule.hpp"
#include "kernels/half_testing.hpp"
#include "net/test_thread.hpp"
#include "stella/error.hpp"

namespace stella::testing {
namespace {

template <class Half>
std::vector<std::vector<Half>> halves_of(Model& model, Random& random, GradientType type) {
  std::vector<std::vector<Half>> halves;
  for (std::size_t tensor = 0; tensor < model.gradients.size(); ++tensor) {
    auto& values = halves.emplace_back();
    for (float& value : model.gradients[tensor]) {
      values.push_back(finite_half<Half>(random));
      value = std::fabs(value_of(values.back())) < 1e6f ? value_of(values.back()) : 0;
      if (value == 0) values.back() = Half{0};
    }
    model.gradient_views[tensor] = {values.data(), type};
  }
  return halves;
}

template <class Half>
void expect_halves_to_be_their_values(GradientType type) {
  Random random(seed());
  const std::vector<std::int64_t> sizes = {3000, 17, 1};
  RuleMember narrow(0, sizes, {plain_sgd(0.1)}, options_of(0.2));
  RuleMember wide(0, sizes, {plain_sgd(0.1)}, options_of(0.2));
  for (Iteration t = 1; t <= 5; ++t) {
    const auto halves = halves_of<Half>(narrow.model, random, type);
    wide.model.gradients = narrow.model.gradients;
    for (std::size_t i = 0; i < sizes.size(); ++i)
      wide.model.gradient_views[i] = {wide.model.gradients[i].data()};
    std::vector<std::vector<PayloadPtr>> all;
    const auto expected = wide.contribute(t);
    for (auto& payload : narrow.contribute(t)) all.push_back({payload});
    for (std::size_t bucket = 0; bucket < all.size(); ++bucket)
      ASSERT_EQ(all[bucket][0]->bytes(), expected[bucket]->bytes());
    narrow.apply(t, all);
    wide.apply(t, all);
  }
}

TEST(SparseRule, GradientsOfSixteenBitsAreTheirValues) {
  expect_halves_to_be_their_values<Bf16>(GradientType::bf16);
  expect_halves_to_be_their_values<Fp16>(GradientType::fp16);
}

TEST(SparseRule, AnInfinityOfSixteenBitsIsNamed) {
  for (const auto& [type, infinity] : {std::pair{GradientType::bf16, std::uint16_t{0x7f80}},
                                       std::pair{GradientType::fp16, std::uint16_t{0x7c00}}}) {
    RuleMember member(0, {40, 100}, {plain_sgd(0.1)}, options_of(0.2));
    std::vector<std::uint16_t> bits(100);
    bits[90] = infinity;
    member.model.gradient_views[1] = {bits.data(), type};
    StepInput input = member.model.input(member.groups);
    EXPECT_EQ(member.rule->copy(0, input), std::optional<std::uint32_t>(1));
  }
}

// Iterations 1 to 5 of one member, of which the third meets this gradient; without it if `with` is false.
template <class Bad>
Sums residual_after_a_bad_gradient(const std::vector<std::int64_t>& sizes, bool with, Bad bad) {
  Random random(seed());
  RuleMember member(0, sizes, {plain_sgd(0.1)}, options_of(0.2));
  Sums produced = zeros_like(member.model);
  for (Iteration t = 1; t <= 5; ++t) {
    fill_with_integers(member.model, random, produced);
    if (t == 3) bad(member.model);
    std::vector<std::vector<PayloadPtr>> all;
    if (t != 3 || with) {
      for (auto& payload : member.contribute(t)) all.push_back({payload});
      EXPECT_EQ(all[0][0]->header().samples, t == 3 ? 0 : 1);
      member.apply(t, all);
    }
  }
  Sums residual = zeros_like(member.model);
  add_residual(member, residual);
  return residual;
}

// With integers exactly: a dropped iteration leaves the residual, and what is sent later, as it was. Whatever
// the place of the bad element: in the first block, behind whole blocks, in a tail, in another bucket.
TEST(SparseRule, ADroppedIterationLeavesNothingInTheResidual) {
  const std::vector<std::int64_t> sizes = {40, 5, 700, 1030, 100, 3000};
  const float nan = std::numeric_limits<float>::quiet_NaN(), inf = std::numeric_limits<float>::infinity();
  for (const auto& [tensor, element] : std::vector<std::pair<std::size_t, std::size_t>>{
           {0, 0}, {0, 39}, {1, 4}, {2, 333}, {3, 1029}, {5, 0}, {5, 2999}}) {
    for (const float value : {nan, inf, -inf}) {
      const auto bad = [&](Model& model) {
        model.gradients[tensor][element] = value;
        model.gradient_views[4] = {};  // a parameter without a gradient stays, too
      };
      EXPECT_EQ(residual_after_a_bad_gradient(sizes, true, bad),
                residual_after_a_bad_gradient(sizes, false, bad))
          << value << " at " << element << " of tensor " << tensor;
    }
  }
}

// Finite ones that are huge come with those that are not. What was in the residual may go beside them, but
// nothing of them stays, and no infinity.
TEST(SparseRule, NothingHugeIsLeftOfADroppedIteration) {
  RuleMember member(0, {40, 100}, {plain_sgd(0.1)}, options_of(0.02));
  member.model.fill_gradients(1.0f);
  member.contribute(1);
  Sums before = zeros_like(member.model), after = before;
  add_residual(member, before);
  const float largest = std::numeric_limits<float>::max();
  for (const float huge : {1e9f, largest, -largest}) {
    member.samples = huge == 1e9f ? 1 : 2;  // then it overflows
    member.model.gradients[0].assign(40, huge);
    member.model.gradients[1].assign(100, std::numeric_limits<float>::quiet_NaN());
    EXPECT_EQ(member.contribute(2)[0]->header().samples, 0);
  }
  add_residual(member, after);
  for (std::size_t i = 0; i < 40; ++i) EXPECT_LE(std::fabs(after[0][i]), 2 * std::fabs(before[0][i])) << i;
  EXPECT_EQ(after[1], before[1]);
}

// Of one bucket a sum overflows, of the other a gradient is no number: the iteration does not count, the
// whole blocks in front of that sum are taken back, and the next iteration does not hear of it.
TEST(SparseRule, AnOverflowIsForgottenWithTheIterationThatIsDropped) {
  Random random(seed());
  RuleMember member(0, {1024, 1024}, {plain_sgd(0.1)}, options_of(0.2));
  Sums produced = zeros_like(member.model), before = produced, after = produced;
  fill_with_integers(member.model, random, produced);
  ASSERT_EQ(member.contribute(1).size(), 2u);
  add_residual(member, before);
  for (Iteration t = 2; t <= 3; ++t) {
    fill_with_integers(member.model, random, produced);
    if (t == 2) {
      member.samples = 2;
      member.model.gradients[0][500] = 0.75f * std::numeric_limits<float>::max();
      member.model.gradients[1][0] = std::numeric_limits<float>::quiet_NaN();
    }
    for (const auto& payload : member.contribute(t)) EXPECT_EQ(payload->header().samples, t == 2 ? 0 : 1);
    member.samples = 1;
    if (t == 2) add_residual(member, after);
  }
  EXPECT_EQ(before, after);
}

// Its square does not fit into fp32, itself it does.
TEST(SparseRule, AHugeFiniteGradientIsSentFirst) {
  World world(1, {16, 64}, 1, options_of(0.01));
  world[0].model.gradients[0].assign(16, 1.0f);
  world[0].model.gradients[1][40] = 1e25f;
  world.step(1);
  EXPECT_EQ(world[0].model.weights[0][3], 0);
  EXPECT_EQ(world[0].model.weights[1][40], -1e25f);
}

TEST(SparseRule, AResidualThatOverflowsIsNamed) {
  World world(1, {16, 64}, 1, options_of(0.01));
  world[0].model.gradients[1][40] = std::numeric_limits<float>::max();
  world[0].samples = 10;
  const Error error = error_of([&] { world.step(1); });
  EXPECT_EQ(error.code(), ErrorCode::nonfinite);
  EXPECT_NAMES(error, "'tensor1' overflowed at iteration 1");
}

TEST(SparseRule, AParameterWithoutAGradientStaysAsItIs) {
  World world(1, {40, 40}, 1, options_of(1));
  RuleMember& member = world[0];
  member.groups[0].weight_decay = 0.5;
  for (auto& tensor : member.model.weights) tensor.assign(40, 1.0f);
  member.rule->read_parameters(member.model.weight_pointers);
  member.rule->state_loaded(0, member.model.weight_pointers);
  member.model.gradient_views[1] = {};
  world.step(1);
  EXPECT_EQ(member.model.weights[0], std::vector<float>(40, 0.5f));  // decayed, though its gradient is zero
  EXPECT_EQ(member.model.weights[1], std::vector<float>(40, 1.0f));
}

TEST(SparseRule, AStepOfNoSamplesContributesNothingAndKeepsTheResidual) {
  World world(2, {640}, 1, options_of(0.1));
  for (auto& member : world.members) member->model.gradients[0].assign(640, 1.0f);
  world.step(1);
  Sums before = zeros_like(world[0].model), after = before;
  add_residual(world[0], before);
  world[0].samples = 0;
  world[0].model.gradients[0].assign(640, std::numeric_limits<float>::quiet_NaN());  // the mean over nothing
  world.step(2);
  add_residual(world[0], after);
  EXPECT_EQ(before, after);
  EXPECT_EQ(world[0].rule->digest(), world[1].rule->digest());
}

}  // namespace
}  // namespace stella::testing
