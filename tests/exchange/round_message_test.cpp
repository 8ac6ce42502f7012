#include "exchange/round_message.hpp"

#include <gtest/gtest.h>

#include <array>

#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

RoundMessage example() {
  RoundMessage commit = round_message(RoundMessageKind::commit, 700, 10);
  for (const Rank rank : {0u, 1u, 9u}) commit.set.add(rank);
  for (const Rank rank : {0u, 1u, 8u, 9u}) commit.contributing.add(rank);
  commit.listening.add(2);
  return commit;
}

// The example of docs/wire.md, "Rounds".
constexpr std::array<std::uint8_t, 15> kGolden{0x05,  // a commit
                                               0xbc, 0x02, 0x00, 0x00,
                                               0x00, 0x00, 0x00, 0x00,  // of round 700
                                               0x03, 0x02,              // is one of members 0, 1 and 9
                                               0x03, 0x03,              // later ones, of 8 too
                                               0x04, 0x00};             // which 2 hears

Bytes golden() {
  const auto bytes = std::as_bytes(std::span(kGolden));
  return {bytes.begin(), bytes.end()};
}

TEST(RoundMessage, TheExampleOfTheDocumentationIsWrittenAndReadBack) {
  EXPECT_EQ(encode(example()), golden());
  EXPECT_EQ(decode_round_message(golden(), 10, "member 0"), example());
}

TEST(RoundMessage, EveryTruncationIsAProtocolErrorThatNamesTheSender) {
  const Bytes whole = golden();
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const Error error =
        error_of([&] { decode_round_message(std::span(whole).first(size), 10, "member 7 (gpu7)"); });
    EXPECT_EQ(error.code(), ErrorCode::protocol) << size;
    EXPECT_NAMES(error, "member 7 (gpu7)");
  }
}

TEST(RoundMessage, WhatIsNoneIsRefused) {
  const auto refused = [](std::size_t at, std::uint8_t byte) {
    Bytes bytes = golden();
    bytes.at(at) = std::byte{byte};
    return error_of([&] { decode_round_message(bytes, 10, "member 7"); });
  };
  EXPECT_NAMES(refused(0, 0), "unknown kind 0");
  EXPECT_NAMES(refused(0, 6), "unknown kind 6");
  EXPECT_NAMES(refused(10, 0x04), "names member 10 of 10");
  Bytes longer = golden();
  longer.push_back(std::byte{0});
  EXPECT_EQ(error_of([&] { decode_round_message(longer, 10, "member 7"); }).code(), ErrorCode::protocol);
}

}  // namespace
}  // namespace stella::testing
