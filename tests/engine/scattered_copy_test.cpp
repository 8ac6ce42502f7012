#include "engine/scattered_copy.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <vector>

namespace stella::testing {
namespace {

TEST(ScatteredCopy, HasCopiedEveryPieceWhenItGoesHoweverMany) {
  constexpr std::size_t kMost = 50;
  constexpr std::size_t kStride = 19;
  std::vector<float> from(kMost * kStride);
  std::iota(from.begin(), from.end(), 1.0f);
  for (std::size_t pieces = 0; pieces <= kMost; ++pieces) {
    std::vector<float> to(from.size());
    std::vector<float> expected(from.size());
    {
      ScatteredCopy copy;
      for (std::size_t i = 0; i < pieces; ++i) {
        const std::size_t at = i * kStride;
        const std::size_t numel = 1 + i % kStride;
        copy.add(to.data() + at, from.data() + at, numel);
        std::copy_n(from.data() + at, numel, expected.data() + at);
      }
    }
    EXPECT_EQ(to, expected) << pieces;
  }
}

}  // namespace
}  // namespace stella::testing
