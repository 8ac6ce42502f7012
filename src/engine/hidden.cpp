#include "engine/hidden.hpp"

#include <algorithm>
#include <cmath>

#include "kernels/finite.hpp"
#include "kernels/hide.hpp"
#include "kernels/reduce.hpp"

namespace stella {

Hidden::Hidden(std::size_t size, std::optional<double> share)
    : given_share_(share), values_(size), went_(size) {}

void Hidden::settle(const Part& part, const ListedValues& told, const ListedValues* changes) {
  const auto& [own, common, place, at] = part;
  std::int8_t* went = went_.data() + at;
  std::size_t again = 0, onwards = 0;
  told.for_each_in(place, own.size(), [&](std::size_t i, float value) {
    again += went[i] != 0;
    onwards += went[i] == (std::signbit(value) ? -1 : 1);
  });
  pull_.told(again, onwards);
  if (changes) {
    changes->for_each_in(place, own.size(), [&](std::size_t i, float change) {
      if (change != 0) went[i] = std::signbit(change) ? -1 : 1;
    });
  }
  if (find_nonfinite(own) != own.size()) return;  // or what is hidden would never be finite again
  float* hidden = values_.data() + at;
  told.for_each_in(place, own.size(), [&](std::size_t i, float value) {
    if (hidden[i] == 0 || std::signbit(value) != std::signbit(hidden[i])) return;
    const float back = std::fabs(value) < std::fabs(hidden[i]) ? value : hidden[i];
    own[i] += back;
    hidden[i] -= back;
  });
  hide(given_share_ ? Shares{*given_share_, 0} : pull_.shares(), common, own, hidden);
}

void Hidden::show(std::size_t at, std::span<float> own) {
  const std::span<float> hidden = values_.span().subspan(at, own.size());
  add(hidden, own.data());
  std::ranges::fill(hidden, 0.0f);
}

}  // namespace stella
