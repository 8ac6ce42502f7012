#include "engine/fragment_body.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numeric>
#include <string>

#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

// The example of docs/wire.md, "Under rule="local"": blocks 128 and 129, ones and minus ones, in 1 bit.
constexpr std::array<std::uint8_t, 29> kGolden{
    0xe8, 0x07, 0x80, 0x01, 0x02,                    // announced, first, blocks
    0x02, 0x00, 0x05, 0x06, 0x02, 0x02,              // encoding.md: all of 2 blocks, 1 bit
    0x00, 0xff, 0xff,                                // exponent, steps
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  // plus
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};       // minus, but for the last 8
constexpr Fragment kFragment{128, 2};

Bytes golden() {
  const auto bytes = std::as_bytes(std::span(kGolden));
  Bytes whole(bytes.begin(), bytes.end());
  whole.push_back(std::byte{0x00});
  return whole;
}

std::vector<float> example() {
  std::vector<float> values(2 * kFragmentBlock, 1.0f);
  std::fill(values.begin() + 64, values.begin() + 120, -1.0f);
  return values;
}

TEST(FragmentBody, TheExampleOfTheDocumentationIsWrittenAndReadBack) {
  auto values = example();
  EXPECT_EQ(write_fragment_body(1000, kFragment, ValueCoding::int1, {}, values), golden());
  EXPECT_EQ(values, std::vector<float>(values.size(), 0.0f));  // all of it was sent
  const Bytes whole = golden();
  const FragmentBody read = read_fragment_body(whole, kFragment, {});
  EXPECT_EQ(read.announced_blocks, 1000u);
  std::vector<float> sent(read.values.size());
  read.values.read(0, sent);
  EXPECT_EQ(sent, example());
}

TEST(FragmentBody, AnotherFragmentIsRefusedNamingBoth) {
  for (const Fragment& here : {Fragment{127, 2}, Fragment{128, 3}}) {
    const Error error = error_of([&] { read_fragment_body(golden(), here, {}); });
    EXPECT_EQ(error.code(), ErrorCode::protocol);
    EXPECT_TRUE(contains(error.what(), "its fragment is 2 blocks from 128, here it is")) << error.what();
  }
}

TEST(FragmentBody, EveryTruncationIsAProtocolError) {
  const Bytes whole = golden();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const Error error = error_of([&] { read_fragment_body(std::span(whole).first(size), kFragment, {}); });
    EXPECT_EQ(error.code(), ErrorCode::protocol) << size;
  }
}

TEST(FragmentBody, SomeBlocksOnlyAreRefused) {
  std::vector<float> values(2 * kFragmentBlock, 1.0f);
  Bytes body;
  ByteWriter writer(body);
  for (const std::uint64_t number : {1000, 128, 2}) writer.put_varint(number);
  encode_blocks(std::vector<BlockId>{1}, {ValueCoding::int1, kFragmentBlock, {}}, values, body);
  const Error error = error_of([&] { read_fragment_body(body, kFragment, {}); });
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_TRUE(contains(error.what(), "lacks blocks")) << error.what();
}

}  // namespace
}  // namespace stella::testing
