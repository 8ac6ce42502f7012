#include "net/address.hpp"

#include <charconv>

#include "stella/error.hpp"

namespace stella {
namespace {

[[noreturn]] void refuse(std::string_view text) {
  throw Error(ErrorCode::configuration,
              "\"" + std::string(text) +
                  "\" is no address; expected host:port, with IPv6 numbers in brackets: [::1]:4242");
}

}  // namespace

std::string to_string(const Address& address) {
  const bool numeric_v6 = address.host.find(':') != std::string::npos;
  const std::string host = numeric_v6 ? "[" + address.host + "]" : address.host;
  return host + ":" + std::to_string(address.port);
}

Address parse_address(std::string_view text) {
  const auto colon = text.rfind(':');
  if (colon == std::string_view::npos || colon == 0) refuse(text);
  std::string_view host = text.substr(0, colon);
  const std::string_view digits = text.substr(colon + 1);
  const bool bracketed = host.starts_with('[') && host.ends_with(']') && host.size() > 2;
  if (bracketed) host = host.substr(1, host.size() - 2);
  if (!bracketed && host.find_first_of(":[]") != std::string_view::npos) refuse(text);
  std::uint16_t port = 0;
  const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), port);
  if (error != std::errc{} || end != digits.data() + digits.size() || port == 0) refuse(text);
  return {std::string(host), port};
}

asio::ip::address plain(const asio::ip::address& address) {
  if (address.is_v6() && address.to_v6().is_v4_mapped()) {
    return asio::ip::make_address_v4(asio::ip::v4_mapped, address.to_v6());
  }
  return address;
}

}  // namespace stella
