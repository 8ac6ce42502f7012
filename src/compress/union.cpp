#include "compress/union.hpp"

#include <algorithm>
#include <cassert>
#include <iterator>
#include <limits>
#include <numeric>

namespace stella {
namespace {

// The union of two lists, and where the elements of each went.
struct Pair {
  std::vector<BlockId> blocks;
  std::vector<std::uint32_t> left;
  std::vector<std::uint32_t> right;
};

Pair merge_two(std::span<const BlockId> left, std::span<const BlockId> right) {
  assert(left.size() + right.size() <= std::numeric_limits<std::uint32_t>::max());
  Pair pair;
  pair.blocks.resize(left.size() + right.size());
  pair.left.resize(left.size());
  pair.right.resize(right.size());
  std::size_t i = 0;
  std::size_t j = 0;
  std::uint32_t size = 0;
  while (i < left.size() && j < right.size()) {
    // No branch on the data: what does not advance is written again in the next round.
    const BlockId a = left[i];
    const BlockId b = right[j];
    pair.blocks[size] = std::min(a, b);
    pair.left[i] = size;
    pair.right[j] = size;
    ++size;
    i += a <= b;
    j += b <= a;
  }
  for (; i < left.size(); ++i) {
    pair.blocks[size] = left[i];
    pair.left[i] = size++;
  }
  for (; j < right.size(); ++j) {
    pair.blocks[size] = right[j];
    pair.right[j] = size++;
  }
  pair.blocks.resize(size);
  return pair;
}

void follow(const std::vector<std::uint32_t>& moved, std::span<std::vector<std::uint32_t>> positions) {
  for (auto& list : positions) {
    for (std::uint32_t& position : list) position = moved[position];
  }
}

}  // namespace

BlockUnion union_of(std::span<const std::span<const BlockId>> lists) {
  BlockUnion result;
  if (lists.empty()) return result;
  if (lists.size() == 1) {
    result.blocks.assign(lists[0].begin(), lists[0].end());
    result.positions.emplace_back(lists[0].size());
    std::iota(result.positions[0].begin(), result.positions[0].end(), std::uint32_t{0});
    return result;
  }
  const std::size_t half = lists.size() / 2;
  BlockUnion left = union_of(lists.first(half));
  BlockUnion right = union_of(lists.subspan(half));
  Pair pair = merge_two(left.blocks, right.blocks);
  follow(pair.left, left.positions);
  follow(pair.right, right.positions);
  result.blocks = std::move(pair.blocks);
  result.positions = std::move(left.positions);
  std::move(right.positions.begin(), right.positions.end(), std::back_inserter(result.positions));
  return result;
}

}  // namespace stella
