#include "net/frame.hpp"

#include <gtest/gtest.h>

#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

constexpr FrameType kTypes[] = {FrameType::hello,     FrameType::payload, FrameType::control,
                                FrameType::heartbeat, FrameType::abort,   FrameType::leave,
                                FrameType::round,     FrameType::weights};

FrameHeaderBytes header(std::initializer_list<int> values) {
  FrameHeaderBytes bytes{};
  std::size_t i = 0;
  for (int value : values) bytes[i++] = static_cast<std::byte>(value);
  return bytes;
}

TEST(FrameFormat, GoldenBytesOfTheExampleInWireMd) {
  const FrameHeaderBytes golden = header({0x34, 0x12, 0, 0, 2, 0, 0, 0});
  EXPECT_EQ(encode({FrameType::payload, 0x1234}), golden);
  EXPECT_EQ(decode_frame_header(golden, "test"), (FrameHeader{FrameType::payload, 0x1234}));
}

TEST(FrameFormat, EveryTypeIsAcceptedUpToItsLimitAndNotBeyond) {
  for (FrameType type : kTypes) {
    const auto limit = static_cast<std::uint32_t>(body_limit(type));
    EXPECT_EQ(decode_frame_header(encode({type, limit}), "test"), (FrameHeader{type, limit}));
    const Error error = error_of([&] { decode_frame_header(encode({type, limit + 1}), "member 2"); });
    EXPECT_EQ(error.code(), ErrorCode::protocol);
    EXPECT_NAMES(error, "member 2");
    EXPECT_NAMES(error, std::to_string(limit + 1));
    EXPECT_NAMES(error, "limit is " + std::to_string(limit));
  }
}

TEST(FrameFormat, UnknownTypesFlagsAndReservedBitsAreRefused) {
  for (const auto& bytes : {header({0, 0, 0, 0, 0, 0, 0, 0}), header({0, 0, 0, 0, 9, 0, 0, 0}),
                            header({0, 0, 0, 0, 255, 0, 0, 0}), header({0, 0, 0, 0, 4, 1, 0, 0}),
                            header({0, 0, 0, 0, 4, 0, 1, 0}), header({0, 0, 0, 0, 4, 0, 0, 128})}) {
    EXPECT_EQ(error_of([&] { decode_frame_header(bytes, "test"); }).code(), ErrorCode::protocol);
  }
}

}  // namespace
}  // namespace stella::testing
