#include "kernels/finite.hpp"

#include <limits>

#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

TEST(FindNonfinite, FindsTheFirstOneAtEveryPlaceOfEveryLength) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  on_every_target([&] {
    for (std::size_t size = 0; size < 140; size += size < 40 ? 1 : 33) {
      std::vector<float> values(size, std::numeric_limits<float>::max());
      EXPECT_EQ(find_nonfinite(values), size);
      for (std::size_t place = size; place-- > 0;) {
        values[place] = place % 3 == 0 ? nan : place % 3 == 1 ? inf : -inf;
        EXPECT_EQ(find_nonfinite(values), place);
      }
    }
  });
}

TEST(FindNonfiniteBlock, FindsTheFirstListedBlockAndLooksAtNoOther) {
  const float inf = std::numeric_limits<float>::infinity();
  on_every_target([&] {
    for (const std::size_t size : {16, 32, 64}) {
      std::vector<float> values(6 * size, 1.0f);
      const std::vector<BlockId> blocks = {1, 2, 4, 5};
      values[3 * size] = inf;
      EXPECT_EQ(find_nonfinite_block(blocks, size, values.data()), 4u);
      EXPECT_EQ(find_nonfinite_block({}, size, values.data()), 0u);
      for (std::size_t i = 0; i < size; ++i) {
        values[5 * size + i] = inf;
        EXPECT_EQ(find_nonfinite_block(blocks, size, values.data()), 3u);
        values[2 * size + i] = -inf;
        EXPECT_EQ(find_nonfinite_block(blocks, size, values.data()), 1u);
        values[5 * size + i] = values[2 * size + i] = 1;
      }
    }
  });
}

}  // namespace
}  // namespace stella
