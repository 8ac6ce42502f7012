#include "membership/hello.hpp"

#include <algorithm>
#include <limits>

#include "base/text.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::string_view kMagic = "STELLA";

std::uint32_t whole_milliseconds(std::chrono::milliseconds timeout) {
  constexpr std::int64_t most = std::numeric_limits<std::uint32_t>::max();
  return static_cast<std::uint32_t>(std::clamp<std::int64_t>(timeout.count(), 0, most));
}

std::chrono::milliseconds read_peer_timeout(ByteReader& reader, const std::string& sender) {
  const std::chrono::milliseconds timeout(reader.get<std::uint32_t>());
  if (timeout < kLeastPeerTimeout) {
    throw Error(ErrorCode::protocol, sender + " announces a peer timeout of " + to_text(timeout) +
                                         "; it must be at least " + to_text(kLeastPeerTimeout));
  }
  return timeout;
}

}  // namespace

Bytes encode(const Hello& hello) {
  Bytes bytes;
  ByteWriter writer(bytes);
  writer.put_bytes(std::as_bytes(std::span(kMagic)));
  writer.put(kProtocolVersion);
  writer.put(hello.world_size);
  writer.put(hello.rank);
  writer.put(hello.port);
  writer.put(whole_milliseconds(hello.peer_timeout));
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
  hello.peer_timeout = read_peer_timeout(reader, sender);
  hello.name = valid_utf8(reader.get_string(kMaxName), kMaxName);
  hello.cluster = valid_utf8(reader.get_string(kMaxName), kMaxName);
  hello.hostname = valid_utf8(reader.get_string(kMaxHost), kMaxHost);
  hello.host = valid_utf8(reader.get_string(kMaxHost), kMaxHost);
  hello.software = valid_utf8(reader.get_string(kMaxName), kMaxName);
  reader.expect_end();
  return hello;
}

}  // namespace stella
