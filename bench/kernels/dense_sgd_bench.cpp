#include "kernels/dense_sgd.hpp"

#include "bench_data.hpp"

namespace stella::bench {
namespace {

// SGD with momentum on 64 M parameters: 20 bytes of traffic for each with fp32 gradients.
void dense_sgd_momentum(benchmark::State& state) {
  static const auto gradient = repeated_normal(kLarge);
  static AlignedArray<float> weights(kLarge), momentum_buffer(kLarge);
  const std::size_t size = kLarge / static_cast<std::size_t>(state.threads());
  const std::size_t at = size * static_cast<std::size_t>(state.thread_index());
  const SgdStep step{.lr = 1e-3f, .momentum = 0.9f, .weight_decay = 0, .nesterov = false, .maximize = false};
  for (auto _ : state) {
    dense_sgd(std::span<const float>(gradient.data() + at, size), step, {1, 1},
              {weights.data() + at, momentum_buffer.data() + at}, nullptr);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(size));
}
BENCHMARK(dense_sgd_momentum)->ThreadRange(1, 2)->UseRealTime();

}  // namespace
}  // namespace stella::bench
