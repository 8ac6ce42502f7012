#include "optim/bias_corrections.hpp"

#include <algorithm>
#include <cassert>
#include <cmath>

namespace stella {
namespace {

// beta^t where the tables end: products too, but few.
double power_of(double beta, std::uint32_t t) {
  double result = 1;
  for (; t != 0; t >>= 1, beta *= beta) {
    if ((t & 1) != 0) result *= beta;
  }
  return result;
}

double itself(double bias) { return bias; }
double root(double bias) { return std::sqrt(bias); }

}  // namespace

bool BiasCorrections::reach(Table& own, std::uint32_t t, Correct correct) {
  assert(t >= 1);
  std::vector<float>& table = own.table;
  const auto ends = [&] { return !table.empty() && table.back() == 1; };
  while (table.size() < std::min<std::size_t>(t, kLongestTable) && !ends()) {
    const double power = own.power * own.value;
    table.push_back(static_cast<float>(correct(1 - power)));
    own.power = power;
  }
  return t <= table.size() || ends();
}

float BiasCorrections::at(Table& own, std::uint32_t t, Correct correct) {
  if (reach(own, t, correct)) return own.table[std::min<std::size_t>(t, own.table.size()) - 1];
  return static_cast<float>(correct(1 - power_of(own.value, t)));
}

void BiasCorrections::set_betas(double beta1, double beta2) {
  if (beta1 != beta1_.value) beta1_ = Table(beta1);
  if (beta2 != beta2_.value) beta2_ = Table(beta2);
}

bool BiasCorrections::reach(std::uint32_t t) {
  const bool first = reach(beta1_, t, itself);
  return reach(beta2_, t, root) && first;
}

BiasCorrections::Pair BiasCorrections::at(std::uint32_t t) {
  return {.bias1 = at(beta1_, t, itself), .root_of_bias2 = at(beta2_, t, root)};
}

}  // namespace stella
