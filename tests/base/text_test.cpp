#include "base/text.hpp"

#include <gtest/gtest.h>

namespace stella {
namespace {

using namespace std::chrono_literals;

TEST(Text, ADurationIsInSecondsWithItsMilliseconds) {
  EXPECT_EQ(to_text(10s), "10 s");
  EXPECT_EQ(to_text(250ms), "0.250 s");
  EXPECT_EQ(to_text(61'007ms), "61.007 s");
}

}  // namespace
}  // namespace stella
