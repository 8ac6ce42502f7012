// Rules called directly, as the pipeline calls them: several members' in one thread, without a network.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "engine/members.hpp"
#include "engine/sparse_rule.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella::testing {

inline GroupSettings plain_sgd(double lr) {
  GroupSettings settings;
  settings.lr = lr;
  return settings;
}

inline EngineOptions options_of(double density, const std::string& wire = "fp32",
                                const std::string& selector = "blocks") {
  EngineOptions options;
  options.density = density;
  options.wire = wire;
  options.selector = selector;
  options.bucket_bytes = 4096;
  return options;
}

// A member without a network.
struct RuleMember {
  RuleMember(Rank which, const std::vector<std::int64_t>& sizes, const std::vector<GroupSettings>& with,
             const EngineOptions& options)
      : model(sizes), groups(with) {
    std::vector<std::string> names;
    for (const TensorSpec& spec : model.specs) names.push_back(spec.name);
    rule = std::make_unique<SparseRule>(plan_buckets(model.specs, options.bucket_bytes, options.block), names,
                                        groups, options, which,
                                        [](Rank rank) { return "member " + std::to_string(rank); });
    rule->state_loaded(0, model.weight_pointers);
  }

  std::vector<PayloadPtr> contribute(Iteration t) {
    StepInput input = model.input(groups);
    input.samples = samples;
    Step step(t, Level::active, input, rule->buckets());
    bool drop = false;
    for (BucketId bucket = 0; bucket < rule->buckets(); ++bucket)
      drop |= rule->copy(bucket, step.input).has_value();
    for (BucketId bucket = 0; drop && bucket < rule->buckets(); ++bucket) rule->drop(bucket, step.input);
    if (drop) step.skip = true;
    std::vector<PayloadPtr> payloads;
    for (BucketId bucket = 0; bucket < rule->buckets(); ++bucket)
      payloads.push_back(rule->contribute(bucket, step));
    return payloads;
  }
  // all[bucket]: by member
  void apply(Iteration t, std::span<const std::vector<PayloadPtr>> all) {
    for (BucketId bucket = 0; bucket < rule->buckets(); ++bucket) {
      rule->apply(bucket, rule->merge(bucket, {t, all[bucket], {}}));
      rule->publish(bucket, t, model.weight_pointers);
    }
  }

  Model model;
  std::vector<GroupSettings> groups;
  double samples = 1;
  std::unique_ptr<SparseRule> rule;
};

struct World {
  World(std::uint32_t world_size, const std::vector<std::int64_t>& sizes, double lr,
        const EngineOptions& options) {
    for (Rank rank = 0; rank < world_size; ++rank) {
      members.push_back(
          std::make_unique<RuleMember>(rank, sizes, std::vector<GroupSettings>{plain_sgd(lr)}, options));
    }
  }

  // By bucket, then by member.
  std::vector<std::vector<PayloadPtr>> contributions(Iteration t) {
    std::vector<std::vector<PayloadPtr>> all(members[0]->rule->buckets());
    for (auto& member : members) {
      const auto theirs = member->contribute(t);
      for (std::size_t bucket = 0; bucket < all.size(); ++bucket) all[bucket].push_back(theirs[bucket]);
    }
    return all;
  }
  void step(Iteration t) {
    const auto all = contributions(t);
    for (auto& member : members) member->apply(t, all);
  }
  RuleMember& operator[](Rank rank) { return *members[rank]; }

  std::vector<std::unique_ptr<RuleMember>> members;
};

using Sums = std::vector<std::vector<double>>;  // by tensor and element

inline Sums zeros_like(const Model& model) {
  Sums sums;
  for (const auto& tensor : model.weights) sums.emplace_back(tensor.size());
  return sums;
}

inline void fill_with_integers(Model& model, Random& random, Sums& produced) {
  for (std::size_t tensor = 0; tensor < model.gradients.size(); ++tensor) {
    for (std::size_t i = 0; i < model.gradients[tensor].size(); ++i) {
      const int value = static_cast<int>(random() % 2001) - 1000;
      model.gradients[tensor][i] = static_cast<float>(value);
      produced[tensor][i] += value;
    }
  }
}

inline void add_residual(RuleMember& member, Sums& sums) {
  for (const StateArray& array : member.rule->state()) {
    if (array.name != "residual") continue;
    for (std::size_t i = 0; i < array.numel; ++i) {
      sums[array.tensor][array.begin + i] += static_cast<const float*>(array.data)[i];
    }
  }
}

// What lies behind a tensor's last element, up to its block's end.
inline void expect_no_padding(RuleMember& member, std::size_t block) {
  for (const StateArray& array : member.rule->state()) {
    if (array.name == "steps") continue;
    const auto* values = static_cast<const float*>(array.data);
    for (std::size_t i = array.numel; i % block != 0; ++i)
      ASSERT_EQ(std::bit_cast<std::uint32_t>(values[i]), 0u) << array.name;
  }
}

}  // namespace stella::testing
