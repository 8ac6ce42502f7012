#include "membership/hello.hpp"

#include <algorithm>

#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::string_view kMagic = "STELLA";

}  // namespace

Bytes encode(const Hello& hello) {
  Bytes bytes;
  ByteWriter writer(bytes);
  writer.put_bytes(std::as_bytes(std::span(kMagic)));
  writer.put(kProtocolVersion);
  writer.put(hello.world_size);
  writer.put(hello.rank);
  writer.put(hello.port);
  writer.put_string(std::string_view(hello.name).substr(0, kMaxName));
  writer.put_string(std::string_view(hello.cluster).substr(0, kMaxName));
  writer.put_string(std::string_view(hello.hostname).substr(0, kMaxHost));
  writer.put_string(std::string_view(hello.host).substr(0, kMaxHost));
  writer.put_string(std::string_view(hello.software).substr(0, kMaxName));
  return bytes;
}

Hello decode_hello(std::span<const std::byte> bytes, const std::string& sender) {
  ByteReader reader(bytes, "the hello of " + sender);
  if (!std::ranges::equal(reader.take(kMagic.size()), std::as_bytes(std::span(kMagic)))) {
    throw Error(ErrorCode::protocol,
                sender + " is no member of a StellaTrain run: its first frame is no hello");
  }
  const auto version = reader.get<std::uint16_t>();
  if (version != kProtocolVersion) {
    throw Error(ErrorCode::mismatch, sender + " speaks protocol version " + std::to_string(version) +
                                         ", this member version " + std::to_string(kProtocolVersion) +
                                         "; install the same release of stellatrain on both");
  }
  Hello hello;
  hello.world_size = reader.get<std::uint32_t>();
  hello.rank = reader.get<std::uint32_t>();
  hello.port = reader.get<std::uint16_t>();
  hello.name = reader.get_string(kMaxName);
  hello.cluster = reader.get_string(kMaxName);
  hello.hostname = reader.get_string(kMaxHost);
  hello.host = reader.get_string(kMaxHost);
  hello.software = reader.get_string(kMaxName);
  reader.expect_end();
  return hello;
}

}  // namespace stella
