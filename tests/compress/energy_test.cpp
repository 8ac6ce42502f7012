// How much of the gradient's energy (sum of squares) a selector keeps, compared with the exact block top-k at
// the same size: by the paper's score, the sum of magnitudes, and by energy itself, which no choice exceeds.
// The published reference kept a quarter of it on independent gradients.
#include <algorithm>
#include <functional>
#include <numeric>

#include "compress/gradients.hpp"
#include "compress/selector.hpp"

namespace stella {
namespace {

using namespace testing;

constexpr std::size_t kBlocks = 8192;
constexpr std::size_t kBudget = kBlocks / 100;
constexpr int kWarmUp = 5;
constexpr int kCalls = 15;

using Draw = std::function<std::vector<float>(Random&)>;

// The sum of energies over the `size` blocks with the largest weights.
double energy_of_largest(std::span<const double> energies, std::span<const double> weights,
                         std::size_t size) {
  std::vector<std::size_t> order(energies.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(size), order.end(),
                    [&](std::size_t a, std::size_t b) { return weights[a] > weights[b]; });
  double sum = 0;
  for (std::size_t i = 0; i < size; ++i) sum += energies[order[i]];
  return sum;
}

// What a selector keeps, averaged over calls after warm-up.
struct Kept {
  double of_best_by_magnitude = 0;  // of the energy in as many blocks of the largest sums of magnitudes
  double of_best_by_energy = 0;     // of the energy in as many blocks of largest energy
  double of_budget = 0;             // blocks chosen
};

Kept kept_energy(const char* name, const Draw& draw) {
  Random random(seed());
  auto selector = make_selector(name, seed());
  std::vector<BlockId> chosen;
  Kept kept;
  for (int call = 0; call < kWarmUp + kCalls; ++call) {
    const auto gradient = draw(random);
    const auto scores = scores_of(gradient);
    selector->select(scores, kBudget, chosen);
    if (call < kWarmUp) continue;
    const auto energies = energies_of(gradient);
    double own = 0;
    for (const BlockId block : chosen) own += energies[block];
    kept.of_best_by_magnitude +=
        own / energy_of_largest(energies, magnitudes_of(gradient), chosen.size()) / kCalls;
    kept.of_best_by_energy += own / energy_of_largest(energies, energies, chosen.size()) / kCalls;
    kept.of_budget += static_cast<double>(chosen.size()) / kBudget / kCalls;
  }
  return kept;
}

struct Kind {
  const char* name;
  Draw draw;
};

const std::vector<Kind> kKinds = {
    {"normal", [](Random& random) { return normal(random, kBlocks * kBlock); }},
    {"student_t_3", [](Random& random) { return heavy_tailed(random, kBlocks * kBlock, 3); }},
    {"student_t_2", [](Random& random) { return heavy_tailed(random, kBlocks * kBlock, 2); }},
    {"embedding", [](Random& random) { return embedding(random, kBlocks / 8, 8 * kBlock, 0.05); }}};

TEST(Energy, BlocksAndThresholdKeepNearlyAllThatTheBestChoiceWould) {
  for (const auto& kind : kKinds) {
    for (const char* name : {"blocks", "threshold"}) {
      const auto [of_magnitude, of_energy, of_budget] = kept_energy(name, kind.draw);
      std::printf("%-10s %-12s %.4f of the best by magnitude, %.4f by energy, %.3f of the budget\n", name,
                  kind.name, of_magnitude, of_energy, of_budget);
      EXPECT_GE(of_magnitude, 0.95) << name << " on " << kind.name;
      EXPECT_GE(of_energy, name == std::string("blocks") ? 0.9999 : 0.98) << name << " on " << kind.name;
      EXPECT_GE(of_budget, 0.9) << name << " on " << kind.name;
    }
  }
}

}  // namespace
}  // namespace stella
