// Optimizer steps over whole models, as the engine makes them: buckets of a million parameters, sparse
// gradients of random blocks. Against the dense kernels over as many parameters.
#include <algorithm>

#include "bench_data.hpp"
#include "compress/merge.hpp"
#include "optim/optimizer.hpp"

namespace stella::bench {
namespace {

GroupSettings adamw() {
  GroupSettings settings;
  settings.kind = OptimizerKind::adamw;
  settings.lr = 1e-3;
  settings.weight_decay = 0.01;
  return settings;
}

GroupSettings sgd_with_momentum() {
  GroupSettings settings;
  settings.kind = OptimizerKind::sgd;
  settings.lr = 1e-3;
  settings.momentum = 0.9;
  return settings;
}

// Gradients take turns, so that a step finds the blocks of its model where they would be: not in a cache,
// unless the whole model is. There are 64 MiB of them at any density, so they are in none either.
std::vector<SparseGradient> some_gradients(double density, std::uint64_t seed) {
  const auto count = static_cast<std::size_t>(16 / density);
  std::vector<SparseGradient> gradients;
  for (std::size_t i = 0; i < count; ++i) {
    auto blocks = some_blocks(density, seed + i);
    const std::size_t size = blocks.size() * kBlock;
    gradients.push_back({std::move(blocks), repeated_normal(size)});
  }
  return gradients;
}

// One thread's share of a model.
struct Share {
  Share(const GroupSettings& settings, std::size_t buckets) : weights(buckets * kNumel) {
    for (std::size_t bucket = 0; bucket < buckets; ++bucket)
      optimizers.push_back(make_optimizer(settings, kBlocks));
  }
  std::span<float> of(std::size_t bucket) { return weights.span().subspan(bucket * kNumel, kNumel); }

  AlignedArray<float> weights;
  std::vector<std::unique_ptr<SparseOptimizer>> optimizers;
};

// Arguments: millions of parameters, density in 1/1000. Items are all parameters of the model.
void sparse_step(benchmark::State& state, GroupSettings settings) {
  const std::size_t buckets = static_cast<std::size_t>(state.range(0) / state.threads());
  const double density = static_cast<double>(state.range(1)) / 1000;
  const auto gradients = some_gradients(density, static_cast<std::uint64_t>(state.thread_index()) * 1000);
  Share share(settings, buckets);
  std::size_t turn = 0;
  const auto step = [&] {
    for (std::size_t bucket = 0; bucket < buckets; ++bucket)
      share.optimizers[bucket]->step(gradients[turn++ % gradients.size()], settings, share.of(bucket));
  };
  for (auto _ : state) {
    step();
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(buckets * kNumel));
}
BENCHMARK_CAPTURE(sparse_step, adamw, adamw())
    ->ArgsProduct({{2, 4, 16, 64, 256}, {10}})
    ->ArgsProduct({{64}, {50, 100, 250, 500, 750, 900, 1000}})
    ->ThreadRange(1, 2)
    ->UseRealTime();
BENCHMARK_CAPTURE(sparse_step, adamw, adamw())->Args({1, 10})->Threads(1)->UseRealTime();  // one bucket
BENCHMARK_CAPTURE(sparse_step, sgd, sgd_with_momentum())
    ->ArgsProduct({{64}, {10, 50, 100, 250, 500, 1000}})
    ->ThreadRange(1, 2)
    ->UseRealTime();

// What a step of AdamW at 1 % of 64 M parameters cannot be quicker than: 1 is added to one value of each line
// of the same blocks, loaded ahead alike, and nothing computed. Argument: arrays; the fourth stands for the
// step counts, which share lines. Items are blocks.
void touch_lines(benchmark::State& state) {
  constexpr std::size_t kBuckets = 64, kAhead = 32;
  std::vector<std::vector<BlockId>> lists;
  std::size_t touched = 0;
  for (std::uint64_t seed = 0; seed < 61; ++seed) lists.push_back(some_blocks(0.01, seed));
  std::vector<AlignedArray<float>> arrays;
  for (std::int64_t k = 0; k < state.range(0); ++k)
    arrays.emplace_back((k < 3 ? kNumel : kBlocks) * kBuckets);
  std::size_t turn = 0;
  for (auto _ : state) {
    for (std::size_t bucket = 0; bucket < kBuckets; ++bucket) {
      const auto& blocks = lists[turn++ % lists.size()];
      touched += blocks.size();
      float* of[4] = {};
      for (std::size_t k = 0; k < arrays.size(); ++k)
        of[k] = arrays[k].data() + bucket * arrays[k].size() / kBuckets;
      for (std::size_t k = 0; k < blocks.size(); ++k) {
        const std::size_t here = blocks[k], then = blocks[std::min(k + kAhead, blocks.size() - 1)];
        for (std::size_t array = 0; array < 3; ++array) {
          __builtin_prefetch(of[array] + then * kBlock);
          of[array][here * kBlock] += 1;
        }
        if (of[3] == nullptr) continue;
        __builtin_prefetch(of[3] + then);
        of[3][here] += 1;
      }
    }
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(static_cast<std::int64_t>(touched));
}
BENCHMARK(touch_lines)->Arg(3)->Arg(4);

// Steps of SGD without blocks: elements anywhere, one by one. Arguments as above.
void sgd_by_elements(benchmark::State& state) {
  const std::size_t numel = static_cast<std::size_t>(state.range(0) / state.threads()) * kNumel;
  const double density = static_cast<double>(state.range(1)) / 1000;
  std::mt19937_64 random(1 + static_cast<std::uint64_t>(state.thread_index()));
  std::bernoulli_distribution chosen(density);
  std::vector<std::vector<std::uint32_t>> lists(3);
  for (auto& elements : lists) {
    for (std::size_t i = 0; i < numel; ++i) {
      if (chosen(random)) elements.push_back(static_cast<std::uint32_t>(i));
    }
  }
  const auto gradient = normal(kNumel);
  AlignedArray<float> weights(numel), momentum_buffer(numel);
  std::size_t turn = 0;
  for (auto _ : state) {
    const auto& elements = lists[turn++ % lists.size()];
    for (std::size_t k = 0; k < elements.size(); ++k) {
      float& momentum = momentum_buffer[elements[k]];
      momentum = 0.9f * momentum + gradient[k % kNumel];
      weights[elements[k]] -= 1e-3f * momentum;
    }
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(numel));
}
BENCHMARK(sgd_by_elements)->ArgsProduct({{64}, {10, 50, 100, 250, 500}})->ThreadRange(1, 2)->UseRealTime();

// What a member does with what it receives: four contributions merged, one step. Arguments: millions of
// parameters in the bucket, thousands of parameters that each member sent. Items are what was sent.
void merge_and_step(benchmark::State& state) {
  constexpr std::size_t kMembers = 4;
  const std::size_t total = static_cast<std::size_t>(state.range(0)) * kBlocks;
  const std::size_t sent = static_cast<std::size_t>(state.range(1)) * 1024 / kBlock;
  const double density = static_cast<double>(sent) / static_cast<double>(total);
  // Until all comes again, a gigabyte has been touched; of small buckets again and again the same, which the
  // last cache may hold.
  const std::size_t touched = kMembers * sent * kBlock * 4 * sizeof(float);
  std::vector<std::vector<SparseGradient>> turns((std::size_t{1} << 30) / touched + 1);
  std::uint64_t seed = 0;
  std::size_t received = 0;
  for (auto& contributions : turns) {
    for (std::size_t member = 0; member < kMembers; ++member) {
      auto blocks = some_blocks(density, ++seed, total);
      const std::size_t size = blocks.size() * kBlock;
      received += size;
      contributions.push_back({std::move(blocks), repeated_normal(size)});
    }
  }
  const GroupSettings settings = adamw();
  const auto optimizer = make_optimizer(settings, total);
  AlignedArray<float> weights(total * kBlock);
  std::size_t turn = 0;
  for (auto _ : state) {
    const SparseGradient merged = merge(turns[turn++ % turns.size()], 128);
    optimizer->step(merged, settings, weights);
    benchmark::ClobberMemory();
  }
  state.SetItemsProcessed(state.iterations() * static_cast<std::int64_t>(received / turns.size()));
}
BENCHMARK(merge_and_step)
    ->ArgsProduct({{1, 4, 16, 64, 256}, {10}})
    ->ArgsProduct({{64}, {20, 40, 80, 160, 320, 640}})
    ->UseRealTime();

}  // namespace
}  // namespace stella::bench
