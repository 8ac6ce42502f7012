#include "net/address.hpp"

#include <gtest/gtest.h>

#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

TEST(Addresses, NamesAndNumbersAreReadAndWrittenBack) {
  for (const char* text : {"10.77.0.3:4242", "gpu7.example.org:1", "[2001:db8::1]:65535", "[::1]:4242"}) {
    EXPECT_EQ(to_string(parse_address(text)), text);
  }
  EXPECT_EQ(parse_address("[::1]:80"), (Address{"::1", 80}));
}

TEST(Addresses, WhatIsNoneIsQuotedWithWhatIsExpected) {
  for (const char* text : {"", "host", "host:", ":4242", "host:0", "host:65536", "host:12a", "host:-1",
                           "::1:4242", "[::1]", "[]:1", "[::1:5", "ho[st:5"}) {
    const Error error = error_of([&] { parse_address(text); });
    EXPECT_EQ(error.code(), ErrorCode::configuration);
    EXPECT_NAMES(error, "\"" + std::string(text) + "\"");
    EXPECT_NAMES(error, "host:port");
  }
}

TEST(Addresses, Ipv4ThroughAnIpv6SocketIsShownAsIpv4) {
  EXPECT_EQ(plain(asio::ip::make_address("::ffff:10.0.0.1")).to_string(), "10.0.0.1");
  EXPECT_EQ(plain(asio::ip::make_address("2001:db8::1")).to_string(), "2001:db8::1");
}

}  // namespace
}  // namespace stella::testing
