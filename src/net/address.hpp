// "host:port", with the host of IPv6 addresses in brackets.
#pragma once

#include <asio/ip/address.hpp>
#include <cstdint>
#include <string>
#include <string_view>

namespace stella {

struct Address {
  std::string host;  // a name or a number; IPv6 without brackets
  std::uint16_t port = 0;
  friend bool operator==(const Address&, const Address&) = default;
};

// "10.77.0.3:4242", "gpu7.example.org:4242", "[2001:db8::1]:4242".
std::string to_string(const Address& address);

// Throws Error(configuration) that quotes `text` and says what is expected.
Address parse_address(std::string_view text);

// IPv4 addresses that came through an IPv6 socket as IPv4.
asio::ip::address plain(const asio::ip::address& address);

}  // namespace stella
