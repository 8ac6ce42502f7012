#include "membership/hello.hpp"

#include <algorithm>

#include "base/text.hpp"
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
  writer.put_string(valid_utf8(hello.name, kMaxName));
  writer.put_string(valid_utf8(hello.cluster, kMaxName));
  writer.put_string(valid_utf8(hello.hostname, kMaxHost));
  writer.put_string(valid_utf8(hello.host, kMaxHost));
  writer.put_string(valid_utf8(hello.software, kMaxName));
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
  hello.name = valid_utf8(reader.get_string(kMaxName), kMaxName);
  hello.cluster = valid_utf8(reader.get_string(kMaxName), kMaxName);
  hello.hostname = valid_utf8(reader.get_string(kMaxHost), kMaxHost);
  hello.host = valid_utf8(reader.get_string(kMaxHost), kMaxHost);
  hello.software = valid_utf8(reader.get_string(kMaxName), kMaxName);
  reader.expect_end();
  return hello;
}

}  // namespace stella
