#include "membership/hello.hpp"

#include <gtest/gtest.h>

#include "membership/control.hpp"
#include "membership/farewell.hpp"
#include "membership/member_process.hpp"
#include "net/frame.hpp"

namespace stella::testing {
namespace {

Hello example() {
  return {.world_size = 4,
          .rank = 2,
          .port = 4242,
          .peer_timeout = 10s,
          .name = "c1m0",
          .cluster = "c1",
          .hostname = "gpu7",
          .host = "",
          .software = "stellatrain 0.1.0"};
}

Bytes from_hex(std::string_view hex) {
  Bytes bytes;
  for (std::size_t i = 0; i < hex.size(); i += 2) {
    bytes.push_back(static_cast<std::byte>(std::stoi(std::string(hex.substr(i, 2)), nullptr, 16)));
  }
  return bytes;
}

TEST(HelloFormat, GoldenBytesOfTheExampleInWireMd) {
  const Bytes golden = from_hex(
      "5354454c4c41"  // "STELLA"
      "0100"          // protocol version 1
      "04000000"      // world size
      "02000000"      // rank
      "9210"          // port 4242
      "10270000"      // peer timeout 10000 ms
      "0400000063316d30"
      "020000006331"
      "0400000067707537"
      "00000000"
      "110000007374656c6c61747261696e20302e312e30");
  EXPECT_EQ(encode(example()), golden);
  EXPECT_EQ(decode_hello(golden, "test"), example());
}

TEST(HelloFormat, EveryTruncationIsAProtocolError) {
  const Bytes whole = encode(example());
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_EQ(error_of([&] { decode_hello(part, "test"); }).code(), ErrorCode::protocol) << size;
  }
  Bytes longer = whole;
  longer.push_back(std::byte{0});
  EXPECT_EQ(error_of([&] { decode_hello(longer, "test"); }).code(), ErrorCode::protocol);
}

TEST(HelloFormat, AnotherProtocolVersionIsAMismatchThatNamesBoth) {
  Bytes bytes = encode(example());
  bytes[6] = std::byte{9};
  bytes.resize(8);  // a later version may have changed all that follows
  const Error error = error_of([&] { decode_hello(bytes, "member 3"); });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "member 3");
  EXPECT_NAMES(error, "version 9");
  EXPECT_NAMES(error, "version 1");
}

TEST(HelloFormat, APeerTimeoutThatNobodyCouldServeIsAProtocolError) {
  Hello hello = example();
  for (const auto timeout : {-1ms, 0ms, 1ms, 9ms}) {
    hello.peer_timeout = timeout;
    const Error error = error_of([&] { decode_hello(encode(hello), "member 3"); });
    EXPECT_EQ(error.code(), ErrorCode::protocol) << timeout.count();
    EXPECT_NAMES(error, "member 3");
    EXPECT_NAMES(error, "at least 0.010 s");
  }
  hello.peer_timeout = kLeastPeerTimeout;
  EXPECT_EQ(decode_hello(encode(hello), "test"), hello);
}

TEST(HelloFormat, APeerTimeoutBeyondItsFieldIsTheLargestThatFits) {
  Hello hello = example();
  hello.peer_timeout = std::chrono::hours(24 * 365);
  EXPECT_EQ(decode_hello(encode(hello), "test").peer_timeout, std::chrono::milliseconds(0xffff'ffff));
}

TEST(HelloFormat, LongNamesAreCutSoThatTheFrameFits) {
  Hello hello = example();
  hello.name = hello.cluster = hello.hostname = hello.host = hello.software = std::string(100'000, 'x');
  const Bytes bytes = encode(hello);
  EXPECT_LE(bytes.size(), kMaxHello);
  EXPECT_EQ(decode_hello(bytes, "test").name, std::string(kMaxName, 'x'));
}

TEST(HelloFormat, NamesAreCutBetweenCharactersAndWhatIsNoUtf8IsReplaced) {
  Hello hello = example();
  hello.name = std::string(63, 'x') + "\xc3\xbc";  // 65 bytes, of which the last two are one character
  hello.cluster = "c\xff";
  const Hello there = decode_hello(encode(hello), "test");
  EXPECT_EQ(there.name, std::string(63, 'x'));
  EXPECT_EQ(there.cluster, "c\xef\xbf\xbd");
  Bytes bytes = encode(example());
  bytes[26] = std::byte{0xff};  // of "c1m0": whoever writes that is none of ours
  EXPECT_EQ(decode_hello(bytes, "test").name,
            "\xef\xbf\xbd"
            "1m0");
}

TEST(FarewellFormat, SentencesAreCutBetweenCharactersAndWhatIsNoUtf8IsReplaced) {
  std::string euros;
  while (euros.size() < kMaxAbort) euros += "\xe2\x82\xac";
  const std::string there = decode_farewell(encode(Error(ErrorCode::peer_lost, euros)), "test").what();
  EXPECT_EQ(there, euros.substr(0, there.size()));
  EXPECT_EQ(there.size() % 3, 0u);
  EXPECT_GE(there.size(), kMaxAbort - 16);
  const Bytes bytes = from_hex(
      "01"
      "02000000"
      "61ff");
  EXPECT_STREQ(decode_farewell(bytes, "test").what(), "a\xef\xbf\xbd");
}

TEST(FarewellFormat, GoldenBytesAndRoundTrip) {
  const Bytes golden = from_hex(
      "01"
      "03000000"
      "627965");
  EXPECT_EQ(encode(Error(ErrorCode::peer_lost, "bye")), golden);
  for (ErrorCode code :
       {ErrorCode::peer_lost, ErrorCode::mismatch, ErrorCode::protocol, ErrorCode::timeout}) {
    const Error error = decode_farewell(encode(Error(code, "why")), "test");
    EXPECT_EQ(error.code(), code);
    EXPECT_STREQ(error.what(), "why");
  }
}

TEST(ControlFormat, GoldenBytesOfTheExampleInWireMd) {
  const Bytes golden = from_hex(
      "0300000000000000"
      "02"
      "05000000"
      "6d6f64656c"
      "0700000000000000"
      "aabb");
  const Bytes content = from_hex("aabb");
  const Call call{3, Collective::all_gather, "model", 7};
  EXPECT_EQ(encode(call, content), golden);
  const ControlMessage message = decode_control(golden, "test");
  EXPECT_TRUE(same_collective(message.call, call));
  EXPECT_EQ(message.call.begun, 7u);
  EXPECT_TRUE(std::ranges::equal(message.content(), content));
}

TEST(ControlFormat, UnknownKindsAndTruncationsAreProtocolErrors) {
  const Bytes whole = encode(Call{3, Collective::barrier, "end"}, {});
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const Bytes part(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    EXPECT_EQ(error_of([&] { decode_control(part, "test"); }).code(), ErrorCode::protocol);
  }
  for (int kind : {0, 5, 255}) {
    Bytes bytes = whole;
    bytes[8] = static_cast<std::byte>(kind);
    EXPECT_EQ(error_of([&] { decode_control(bytes, "test"); }).code(), ErrorCode::protocol);
  }
}

TEST(ControlInbox, GivesEachCallItsMessagesInOrder) {
  ControlInbox inbox;
  for (const auto& [sequence, text] : {std::pair(2, "b"), std::pair(1, "a"), std::pair(2, "c")}) {
    const Call call{static_cast<std::uint64_t>(sequence), Collective::all_gather, "t"};
    inbox.put(decode_control(encode(call, bytes_of(text)), "test"), "test");
  }
  EXPECT_FALSE(inbox.take(3));
  EXPECT_TRUE(std::ranges::equal(inbox.take(2)->content(), bytes_of("b")));
  EXPECT_TRUE(std::ranges::equal(inbox.take(2)->content(), bytes_of("c")));
  EXPECT_TRUE(std::ranges::equal(inbox.take(1)->content(), bytes_of("a")));
}

}  // namespace
}  // namespace stella::testing
