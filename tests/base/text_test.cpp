#include "base/text.hpp"

#include <gtest/gtest.h>

#include <limits>

namespace stella {
namespace {

using namespace std::chrono_literals;

TEST(Text, ADurationIsInSecondsWithItsMilliseconds) {
  EXPECT_EQ(to_text(10s), "10 s");
  EXPECT_EQ(to_text(250ms), "0.250 s");
  EXPECT_EQ(to_text(61'007ms), "61.007 s");
}

TEST(Text, ANumberHasAsFewDigitsAsTellItFromItsNeighbours) {
  EXPECT_EQ(to_text(0.0), "0");
  EXPECT_EQ(to_text(-1.0), "-1");
  EXPECT_EQ(to_text(1800.0), "1800");
  EXPECT_EQ(to_text(0.1), "0.1");
  EXPECT_EQ(to_text(0.1 + 0.2), "0.30000000000000004");
  EXPECT_EQ(to_text(1e-12), "1e-12");
  EXPECT_EQ(to_text(1e13), "1e+13");
  EXPECT_EQ(to_text(std::numeric_limits<double>::quiet_NaN()), "nan");
  EXPECT_EQ(to_text(-std::numeric_limits<double>::infinity()), "-inf");
  EXPECT_EQ(to_text(-std::numeric_limits<double>::denorm_min()), "-5e-324");
}

TEST(Text, Utf8StaysAsItIs) {
  for (const std::string text : {"", "plain", "m\xc3\xbcller", "\xe2\x82\xac", "\xf0\x9f\x92\xab",
                                 "\xef\xbf\xbd", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf"}) {
    EXPECT_EQ(valid_utf8(text), text);
  }
}

TEST(Text, BytesThatAreNoCharacterAreReplacedOneByOne) {
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(valid_utf8("a\xff"
                       "b"),
            "a" + bad + "b");
  EXPECT_EQ(valid_utf8("\x80"), bad);                                // goes on with nothing
  EXPECT_EQ(valid_utf8("\xc0\xaf"), bad + bad);                      // overlong
  EXPECT_EQ(valid_utf8("\xe0\x80\xaf"), bad + bad + bad);            // overlong
  EXPECT_EQ(valid_utf8("\xed\xa0\x80"), bad + bad + bad);            // half of a surrogate pair
  EXPECT_EQ(valid_utf8("\xf4\x90\x80\x80"), bad + bad + bad + bad);  // beyond U+10FFFF
  EXPECT_EQ(valid_utf8("\xe2\x82"), bad + bad);                      // cut off
  EXPECT_EQ(valid_utf8("\xe2\x82"
                       "x"),
            bad + bad + "x");
}

TEST(Text, TooLongATextIsCutBetweenCharacters) {
  const std::string euros = "\xe2\x82\xac\xe2\x82\xac";
  for (std::size_t most = 0; most < 3; ++most) EXPECT_EQ(valid_utf8(euros, most), "");
  for (std::size_t most = 3; most < 6; ++most) EXPECT_EQ(valid_utf8(euros, most), "\xe2\x82\xac");
  EXPECT_EQ(valid_utf8(euros, 6), euros);
  EXPECT_EQ(valid_utf8("ab\xff", 4), "ab");  // its replacement has three bytes
}

}  // namespace
}  // namespace stella
