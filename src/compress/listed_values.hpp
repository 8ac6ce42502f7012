// Values most of which are 0: where the others are, and what they are.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace stella {

struct ListedValues {
  std::vector<std::uint32_t> places;  // strictly ascending
  std::vector<float> values;          // [places.size()]

  void reserve(std::size_t count) {
    places.reserve(count);
    values.reserve(count);
  }
  void add(std::uint32_t place, float value) {
    places.push_back(place);
    values.push_back(value);
  }

  // Calls visit(place - first, value) for those of `count` places from `first` on.
  template <class Visit>
  void for_each_in(std::size_t first, std::size_t count, Visit visit) const {
    const auto begin = std::ranges::lower_bound(places, first);
    for (auto place = begin; place != places.end() && *place < first + count; ++place)
      visit(*place - first, values[static_cast<std::size_t>(place - places.begin())]);
  }
};

// Lists every place of any list, with the sum of what the lists have there: in the order of the lists, in
// fp32, each addition rounded, so same bits on every machine. Cost: what they hold, and a little for each
// place up to the last one.
ListedValues sum_of(std::span<const ListedValues> lists);

}  // namespace stella
