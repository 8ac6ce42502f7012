#include "compress/listed_values.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>

namespace stella {
namespace {

// Sums over some neighbouring places, in the first cache.
class Window {
 public:
  static constexpr std::size_t kPlaces = 4096;

  void add(std::size_t place, float value) {
    sums_[place] += value;
    listed_[place / kWord] |= std::uint64_t{1} << place % kWord;
  }

  // Appends what there is to `out`, its places behind `first`, and forgets it.
  void move_to(ListedValues& out, std::size_t first) {
    for (std::size_t word = 0; word < listed_.size(); ++word) {
      for (std::uint64_t left = listed_[word]; left != 0; left &= left - 1) {
        float& sum = sums_[word * kWord + static_cast<std::size_t>(std::countr_zero(left))];
        out.add(static_cast<std::uint32_t>(first + static_cast<std::size_t>(&sum - sums_.data())), sum);
        sum = 0;
      }
      listed_[word] = 0;
    }
  }

 private:
  static constexpr std::size_t kWord = 64;
  std::array<float, kPlaces> sums_{};
  std::array<std::uint64_t, kPlaces / kWord> listed_{};
};

}  // namespace

ListedValues sum_of(std::span<const ListedValues> lists) {
  std::size_t all = 0, end = 0;  // behind the last place
  for (const ListedValues& list : lists) {
    all += list.places.size();
    if (!list.places.empty()) end = std::max(end, std::size_t{list.places.back()} + 1);
  }
  ListedValues sum;
  sum.reserve(all);
  std::vector<std::size_t> next(lists.size(), 0);
  Window window;
  for (std::size_t first = 0; first < end; first += Window::kPlaces) {
    for (std::size_t k = 0; k < lists.size(); ++k) {
      const ListedValues& list = lists[k];
      std::size_t& at = next[k];
      for (; at < list.places.size() && list.places[at] < first + Window::kPlaces; ++at)
        window.add(list.places[at] - first, list.values[at]);
    }
    window.move_to(sum, first);
  }
  return sum;
}

}  // namespace stella
