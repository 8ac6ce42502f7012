// What lies between the end of a tensor and the end of its last block.
#include <gtest/gtest.h>

#include "engine/rule_members.hpp"
#include "engine/sparse_rule.hpp"

namespace stella::testing {
namespace {

TEST(SparseRule, NothingGathersInThePaddingWhateverTheOptimizer) {
  GroupSettings momentum = plain_sgd(0.1);
  momentum.momentum = 0.9;
  momentum.maximize = true;
  GroupSettings adam;
  adam.kind = OptimizerKind::adamw;
  adam.weight_decay = 0.1;
  adam.eps = 0;
  adam.amsgrad = true;
  Random random(seed());
  for (const GroupSettings& settings : {momentum, adam}) {
    for (const double density : {0.3, 1.0}) {
      for (const auto& [wire, block] :
           std::vector<std::pair<std::string, std::size_t>>{{"fp32", 16}, {"int1", 16}, {"int1", 64}}) {
        EngineOptions options = options_of(density, wire);
        options.block = block;
        RuleMember member(0, {5, 100, 1, 700}, {settings}, options);
        for (Iteration t = 1; t <= 5; ++t) {
          member.model.fill_gradients(random);
          std::vector<std::vector<PayloadPtr>> all;
          for (auto& payload : member.contribute(t)) all.push_back({payload});
          member.apply(t, all);
        }
        expect_no_padding(member, block);
      }
    }
  }
}

TEST(SparseRule, PaddingIsAtTheStepOfItsTensorAfterALoad) {
  GroupSettings adam;
  adam.kind = OptimizerKind::adamw;
  EngineOptions options = options_of(1);
  options.block = 64;
  RuleMember member(0, {1000, 5, 64}, {adam}, options);
  for (const StateArray& array : member.rule->state()) {
    if (array.name != "steps") continue;
    auto* steps = static_cast<std::uint32_t*>(array.data);
    std::fill_n(steps, (array.numel + kBlock - 1) / kBlock, array.tensor + 7);
  }
  member.rule->state_loaded(7, member.model.weight_pointers);
  for (const StateArray& array : member.rule->state()) {
    if (array.name != "steps") continue;
    const auto* steps = static_cast<const std::uint32_t*>(array.data);
    const std::size_t blocks = (array.numel + 63) / 64 * 4;
    for (std::size_t i = 0; i < blocks; ++i) EXPECT_EQ(steps[i], array.tensor + 7) << i;
  }
}

}  // namespace
}  // namespace stella::testing
