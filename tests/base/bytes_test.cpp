#include "base/bytes.hpp"

#include <gtest/gtest.h>

#include <limits>

#include "stella/error.hpp"

namespace stella {
namespace {

TEST(Bytes, WhatIsWrittenIsReadBack) {
  Bytes bytes;
  ByteWriter writer(bytes);
  writer.put<std::uint16_t>(0xbeef);
  writer.put(-1.5f);
  writer.put_string("fc.weight");
  ByteReader reader(bytes, "test");
  EXPECT_EQ(reader.get<std::uint16_t>(), 0xbeef);
  EXPECT_EQ(reader.get<float>(), -1.5f);
  EXPECT_EQ(reader.get_string(100), "fc.weight");
  EXPECT_NO_THROW(reader.expect_end());
}

TEST(Bytes, NumbersLieInLittleEndianOrder) {
  Bytes bytes;
  ByteWriter(bytes).put<std::uint32_t>(0x04030201);
  EXPECT_EQ(bytes, (Bytes{std::byte{1}, std::byte{2}, std::byte{3}, std::byte{4}}));
}

TEST(Bytes, VarintsOfEveryLengthRoundTrip) {
  for (int bit = 0; bit <= 64; ++bit) {
    for (int below = 0; below <= 1; ++below) {
      const std::uint64_t power = bit == 64 ? 0 : std::uint64_t{1} << bit;
      const std::uint64_t value = power - static_cast<std::uint64_t>(below);
      Bytes bytes;
      ByteWriter(bytes).put_varint(value);
      ByteReader reader(bytes, "test");
      EXPECT_EQ(reader.get_varint(), value);
      EXPECT_EQ(reader.remaining(), 0u);
    }
  }
}

TEST(Bytes, AVarintBeyond64BitsIsRefused) {
  const Bytes too_long(11, std::byte{0xff});
  Bytes too_large(9, std::byte{0xff});
  too_large.push_back(std::byte{2});
  EXPECT_THROW(ByteReader(too_long, "test").get_varint(), Error);
  EXPECT_THROW(ByteReader(too_large, "test").get_varint(), Error);
}

TEST(Bytes, ReadingPastTheEndThrowsAndNamesWhatWasRead) {
  const Bytes bytes(3);
  try {
    ByteReader(bytes, "frame from member 2").get<std::uint32_t>();
    FAIL() << "no error";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::protocol);
    EXPECT_NE(std::string(error.what()).find("frame from member 2"), std::string::npos);
  }
}

TEST(Bytes, ATextLongerThanItsLimitIsRefusedBeforeItIsCopied) {
  Bytes bytes;
  ByteWriter(bytes).put(std::numeric_limits<std::uint32_t>::max());
  EXPECT_THROW(ByteReader(bytes, "test").get_string(10), Error);
}

TEST(Bytes, LeftoverBytesAreAnError) { EXPECT_THROW(ByteReader(Bytes(1), "test").expect_end(), Error); }

}  // namespace
}  // namespace stella
