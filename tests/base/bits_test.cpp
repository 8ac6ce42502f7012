#include "base/bits.hpp"

#include <gtest/gtest.h>

#include <random>
#include <utility>
#include <vector>

#include "stella/error.hpp"

namespace stella {
namespace {

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

template <class Call>
std::string error_of(Call call) {
  try {
    call();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::protocol);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

TEST(Bits, LieFromTheLowestOfAByteOnBehindWhatIsThere) {
  Bytes bytes = bytes_of({7});
  {
    BitWriter writer(bytes);
    writer.put(0b101, 3);
    writer.put_unary(2);  // 0 0 1
    writer.put(0x1ff, 9);
  }
  EXPECT_EQ(bytes, bytes_of({7, 0b11'100'101, 0b01111111}));
}

TEST(Bits, NumbersOfEveryWidthAreReadBackWhereverTheyLie) {
  std::mt19937_64 random(1);
  for (int round = 0; round < 200; ++round) {
    std::vector<std::pair<std::uint32_t, unsigned>> numbers;  // with 33 bits: in unary
    Bytes bytes;
    {
      BitWriter writer(bytes);
      for (int k = 0; k < 40; ++k) {
        const auto count = static_cast<unsigned>(random() % 34);
        const auto number =
            static_cast<std::uint32_t>(count == 33 ? random() % 200 : random() & ((1ull << count) - 1));
        count == 33 ? writer.put_unary(number) : writer.put(number, count);
        numbers.emplace_back(number, count);
      }
    }
    BitReader reader(bytes, 0, "test");
    for (const auto& [number, count] : numbers)
      EXPECT_EQ(count == 33 ? reader.get_unary(number) : reader.get(count), number);
    EXPECT_NO_THROW(reader.expect_end());
  }
}

TEST(Bits, AReaderCanBeginAnywhere) {
  const Bytes bytes = bytes_of({0xff, 0xff, 0x00, 0x10});
  BitReader reader(bytes, 13, "test");
  EXPECT_EQ(reader.get(4), 0b0111u);
  EXPECT_EQ(reader.at(), 17u);
  EXPECT_EQ(reader.get_unary(100), 11u);
  EXPECT_EQ(reader.at(), 29u);
  EXPECT_NO_THROW(reader.expect_end());
}

TEST(Bits, ReadingPastTheEndIsRefused) {
  const Bytes bytes = bytes_of({0, 0});
  for (const unsigned count : {17u, 32u}) {
    BitReader reader(bytes, 0, "the test");
    EXPECT_EQ(error_of([&] { reader.get(count); }), "the test: cut off in the middle of a number");
  }
  for (const std::size_t most : {16u, 57u, 1000u}) {
    BitReader reader(bytes, 0, "the test");
    EXPECT_EQ(error_of([&] { reader.get_unary(most); }), "the test: cut off in the middle of a number");
  }
  BitReader nothing({}, 0, "the test");
  EXPECT_EQ(nothing.get(0), 0u);
  error_of([&] { nothing.get(1); });
}

TEST(Bits, AnUnaryNumberAboveItsLimitIsRefused) {
  for (const std::size_t zeros : {1u, 8u, 56u, 57u, 58u, 114u, 500u}) {
    Bytes bytes;
    { BitWriter(bytes).put_unary(zeros); }
    EXPECT_EQ(BitReader(bytes, 0, "test").get_unary(zeros), zeros);
    EXPECT_EQ(error_of([&] { BitReader(bytes, 0, "test").get_unary(zeros - 1); }),
              "test: a number is above " + std::to_string(zeros - 1));
  }
}

TEST(Bits, WhatIsLeftOverIsRefused) {
  const Bytes bytes = bytes_of({0xff, 0x00, 0x01});
  EXPECT_NO_THROW(BitReader(bytes, 24, "test").expect_end());
  EXPECT_NO_THROW(BitReader(bytes, 17, "test").expect_end());
  error_of([&] { BitReader(bytes, 16, "test").expect_end(); });
  error_of([&] { BitReader(std::span(bytes).first(2), 8, "test").expect_end(); });
}

}  // namespace
}  // namespace stella
