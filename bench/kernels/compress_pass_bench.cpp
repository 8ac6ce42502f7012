// What a member does to every parameter in every iteration: accumulate, score, select. Against r += g in
// roofline_bench.cpp, over as many parameters.
#include "bench_data.hpp"
#include "compress/selector.hpp"
#include "kernels/accumulate_score.hpp"

namespace stella::bench {
namespace {

// Argument: density in 1/1000. Every iteration has other gradients, and what is selected leaves the residual
// before the next, as in training; the clock stands still for that, it belongs to the encoding.
void accumulate_score_select(benchmark::State& state) {
  constexpr std::size_t kShift = 37 * kBlock, kTurns = 64;
  const std::size_t buckets = kLarge / kNumel / static_cast<std::size_t>(state.threads());
  const std::size_t budget = kBlocks * static_cast<std::size_t>(state.range(0)) / 1000;
  const auto gradients = repeated_normal(buckets * kNumel + kTurns * kShift);
  AlignedArray<float> residuals(buckets * kNumel);
  AlignedArray<float> scores(buckets * kBlocks);
  std::vector<std::unique_ptr<Selector>> selectors;
  for (std::size_t bucket = 0; bucket < buckets; ++bucket)
    selectors.push_back(make_selector("blocks", bucket));
  std::vector<std::vector<BlockId>> chosen(buckets);
  std::size_t turn = 0;
  const auto pass = [&] {
    const float* gradient = gradients.data() + turn++ % kTurns * kShift;
    for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
      const std::size_t at = bucket * kNumel;
      accumulate_score(std::span(gradient + at, kNumel), 0.5f, residuals.data() + at,
                       &scores[bucket * kBlocks]);
      selectors[bucket]->select(scores.span().subspan(bucket * kBlocks, kBlocks), budget, chosen[bucket]);
    }
  };
  const auto take = [&] {
    for (std::size_t bucket = 0; bucket < buckets; ++bucket) {
      for (const BlockId block : chosen[bucket])
        std::fill_n(residuals.data() + bucket * kNumel + block * kBlock, kBlock, 0.0f);
    }
  };
  for (int i = 0; i < 5; ++i) {  // until residuals and thresholds have settled somewhat
    pass();
    take();
  }
  for (auto _ : state) {
    pass();
    state.PauseTiming();
    take();
    state.ResumeTiming();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(buckets * kNumel));
}
BENCHMARK(accumulate_score_select)->Arg(10)->ThreadRange(1, 2)->UseRealTime();

}  // namespace
}  // namespace stella::bench
