#include "engine/fragment_body.hpp"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <numeric>
#include <string>

#include "net/frame.hpp"
#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

// The example of docs/wire.md, "Under rule="local"": blocks 128 and 129, ones and minus ones, in 1 bit.
constexpr std::array<std::uint8_t, 30> kGolden{
    0xe8, 0x07, 0x04, 0x80, 0x01, 0x02,              // announced blocks and bits, first, blocks
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
  EXPECT_EQ(write_fragment_body({1000, 4}, kFragment, ValueCoding::int1, {}, values), golden());
  EXPECT_EQ(values, std::vector<float>(values.size(), 0.0f));  // all of it was sent
  const Bytes whole = golden();
  const FragmentBody read = read_fragment_body(whole, kFragment, {});
  EXPECT_EQ(read.announced, (RoundSize{1000, 4}));
  EXPECT_EQ(peek_fragment(whole, 130), kFragment);
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
  for (const std::uint64_t number : {1000, 4, 128, 2}) writer.put_varint(number);  // 4: one byte, too
  encode_blocks(std::vector<BlockId>{1}, {ValueCoding::int1, kFragmentBlock, {}}, values, body);
  const Error error = error_of([&] { read_fragment_body(body, kFragment, {}); });
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_TRUE(contains(error.what(), "lacks blocks")) << error.what();
}

TEST(FragmentBody, BitsThatAreNoneAreRefused) {
  Bytes body = golden();
  body[2] = std::byte{3};
  EXPECT_NAMES(error_of([&] { read_fragment_body(body, kFragment, {}); }), "values of 3 bits");
}

TEST(FragmentBody, AFragmentOutsideOfTheModelIsRefused) {
  EXPECT_NAMES(error_of([&] { peek_fragment(golden(), 129); }), "is 2 blocks from 128, the model has 129");
  EXPECT_NAMES(error_of([&] { peek_fragment(golden(), 1); }), "the model has 1");
}

TEST(FragmentBody, OfTheLargestFragmentFitsAFrameInEveryCoding) {
  for (const ValueCoding coding : {ValueCoding::fp32, ValueCoding::int8}) {  // coarser ones hold gigabytes
    const Fragment largest{0, most_blocks(coding)};
    std::vector<float> values(largest.blocks * kFragmentBlock, 1.0f);
    const Bytes body = write_fragment_body({largest.blocks, 32}, largest, coding, {}, values);
    EXPECT_LE(body.size() + 128, kMaxPayload);
    EXPECT_GT(body.size(), kMaxPayload / 10 * 8);
  }
}

}  // namespace
}  // namespace stella::testing
