#include "engine/hidden.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/finite.hpp"
#include "kernels/hide.hpp"
#include "kernels/reduce.hpp"

namespace stella {

Hidden::Hidden(std::size_t size, std::optional<double> share)
    : given_share_(share), values_(size), went_(share ? 0 : size) {}

void Hidden::settle(const Part& part, const ListedValues& told) {
  const std::span<float> own = part.own;
  if (!given_share_) watch(part, told);
  if (find_nonfinite(own) != own.size()) return;  // or what is hidden would never be finite again
  float* hidden = values_.data() + part.at;
  told.for_each_in(part.place, own.size(), [&](std::size_t i, float value) {
    if (hidden[i] == 0 || std::signbit(value) != std::signbit(hidden[i])) return;
    const float back = std::fabs(value) < std::fabs(hidden[i]) ? value : hidden[i];
    own[i] += back;
    hidden[i] -= back;
  });
  hide(given_share_ ? Shares{*given_share_, 0} : pull_.shares(), part.common, own, hidden);
}

// Whether what is told goes where W went last; then, where W goes now.
void Hidden::watch(const Part& part, const ListedValues& told) {
  std::int8_t* went = went_.data() + part.at;
  const auto sign = [](float value) { return static_cast<std::int8_t>(std::signbit(value) ? -1 : 1); };
  std::size_t again = 0, onwards = 0;
  told.for_each_in(part.place, part.own.size(), [&](std::size_t i, float value) {
    again += went[i] != 0;
    onwards += went[i] == sign(value);
  });
  pull_.told(again, onwards);
  const auto note = [&](std::size_t i, float change) {
    if (change != 0) went[i] = sign(change);
  };
  if (part.changes) {
    part.changes->for_each_in(part.place, part.own.size(), note);
  } else {
    for (std::size_t i = 0; i < part.own.size(); ++i) note(i, part.mean[i]);
  }
}

void Hidden::show(std::size_t at, std::span<float> own) {
  if (find_nonfinite(own) != own.size()) return;
  const std::span<float> hidden = values_.span().subspan(at, own.size());
  add(hidden, own.data());
  std::ranges::fill(hidden, 0.0f);
}

void Hidden::begin_anew() {
  pull_ = {};
  std::ranges::fill(went_.span(), std::int8_t{0});
}

}  // namespace stella
