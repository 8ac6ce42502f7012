// What a round of rule="local" costs one member of four, stage by stage: a fragment of 4 M parameters of a
// model of 8 M. Argument: bits of a value, 0 for signs with pull 0.5.
#include <chrono>
#include <memory>
#include <string>

#include "bench_data.hpp"
#include "engine/local_rule.hpp"

namespace stella::bench {
namespace {

constexpr std::size_t kModel = std::size_t{1} << 23;

struct FourMembers {
  explicit FourMembers(unsigned bits) {
    EngineOptions options;
    options.rule = "local";
    options.wire = bits == 0 ? "signs" : bits == 32 ? "fp32" : "int" + std::to_string(bits);
    options.pull = bits == 0 ? 0.5 : 0;
    options.bucket_bytes = kModel / 2 * sizeof(float);
    const std::vector<TensorSpec> tensors{{"weights", {kModel}, "float32", 0}};
    for (Rank rank = 0; rank < 4; ++rank) {
      rules.push_back(std::make_unique<LocalRule>(tensors, options, rank, [](Rank) { return "a member"; }));
      rules.back()->weights_loaded(0);
      weights.push_back(repeated_normal(kModel));
    }
  }
  std::shared_ptr<Step> copy(Rank rank) {
    float* const parameters[] = {weights[rank].data()};
    StepInput input;
    input.parameters = parameters;
    auto step = std::make_shared<Step>(round, Level::active, input, 1);
    (void)rules[rank]->copy(0, step->input);
    return step;
  }
  void publish(Rank rank) {
    float* const parameters[] = {weights[rank].data()};
    rules[rank]->publish(0, round, parameters);
  }

  std::vector<std::unique_ptr<LocalRule>> rules;
  std::vector<AlignedArray<float>> weights;
  Iteration round = 0;
};

// stage 0: copy, 1: contribute, 2: merge, 3: apply, 4: publish; of member 0.
void local_round(benchmark::State& state) {
  const auto stage = state.range(1);
  FourMembers members(static_cast<unsigned>(state.range(0)));
  for (auto _ : state) {
    double seconds = 0;
    const auto timed = [&](int which, auto work) {
      const auto begin = std::chrono::steady_clock::now();
      auto result = work();
      if (which == stage)
        seconds += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
      return result;
    };
    ++members.round;
    std::vector<std::shared_ptr<Step>> steps;
    steps.push_back(timed(0, [&] { return members.copy(0); }));
    for (Rank rank = 1; rank < 4; ++rank) steps.push_back(members.copy(rank));
    std::vector<PayloadPtr> payloads;
    payloads.push_back(timed(1, [&] { return members.rules[0]->contribute(0, *steps[0]); }));
    for (Rank rank = 1; rank < 4; ++rank)
      payloads.push_back(members.rules[rank]->contribute(0, *steps[rank]));
    auto update = timed(2, [&] { return members.rules[0]->merge(0, {members.round, payloads, {}}); });
    timed(3, [&] { return members.rules[0]->apply(0, std::move(update)), 0; });
    timed(4, [&] { return members.publish(0), 0; });
    for (Rank rank = 1; rank < 4; ++rank) {
      members.rules[rank]->apply(0, members.rules[rank]->merge(0, {members.round, payloads, {}}));
      members.publish(rank);
    }
    state.SetIterationTime(seconds);
  }
  per(state, "parameter", static_cast<double>(kModel) / 2);
}
BENCHMARK(local_round)
    ->ArgsProduct({{0, 1, 8, 32}, {0, 1, 2, 3, 4}})
    ->ArgNames({"bits", "stage"})
    ->UseManualTime()
    ->Iterations(6)
    ->Unit(benchmark::kMillisecond);

}  // namespace
}  // namespace stella::bench
