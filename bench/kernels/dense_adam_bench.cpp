#include "kernels/dense_adam.hpp"

#include "bench_data.hpp"

namespace stella::bench {
namespace {

// AdamW on 64 M parameters: 28 bytes of traffic for each with fp32 gradients.
void dense_adamw(benchmark::State& state) {
  static const auto gradient = repeated_normal(kLarge);
  static AlignedArray<float> weights(kLarge), exp_avg(kLarge), exp_avg_sq(kLarge);
  const std::size_t size = kLarge / static_cast<std::size_t>(state.threads());
  const std::size_t at = size * static_cast<std::size_t>(state.thread_index());
  const AdamStep step = {.shrink = 0.9999f,
                         .weight_decay = 0,
                         .beta1 = 0.9f,
                         .one_minus_beta1 = 0.1f,
                         .beta2 = 0.999f,
                         .one_minus_beta2 = 0.001f,
                         .eps = 1e-8f,
                         .maximize = false};
  for (auto _ : state) {
    dense_adam(std::span<const float>(gradient.data() + at, size), step, {0.001f, 0.5f, 1.0f},
               {weights.data() + at, exp_avg.data() + at, exp_avg_sq.data() + at, nullptr}, nullptr);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(size));
}
BENCHMARK(dense_adamw)->ThreadRange(1, 2)->UseRealTime();

}  // namespace
}  // namespace stella::bench
