#include "membership/control_content.hpp"

#include "membership/hello.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::size_t kMaxMembers = 65'536;

}  // namespace

Bytes encode_addresses(const std::vector<Address>& addresses) {
  Bytes bytes;
  ByteWriter writer(bytes);
  writer.put(static_cast<std::uint32_t>(addresses.size()));
  for (const Address& address : addresses) {
    writer.put_string(address.host);
    writer.put(address.port);
  }
  return bytes;
}

std::vector<Address> decode_addresses(std::span<const std::byte> bytes, std::size_t expected,
                                      const std::string& sender) {
  ByteReader reader(bytes, sender + ": the table of addresses");
  const auto count = reader.get<std::uint32_t>();
  if (count != expected || count > kMaxMembers) {
    throw Error(ErrorCode::protocol, sender + ": the table of addresses has " + std::to_string(count) +
                                         " entries; " + std::to_string(expected) + " members were expected");
  }
  std::vector<Address> addresses(count);
  for (Address& address : addresses) {
    address.host = reader.get_string(kMaxHost);
    address.port = reader.get<std::uint16_t>();
  }
  reader.expect_end();
  return addresses;
}

Bytes encode(const Chunk& chunk) {
  Bytes content;
  content.reserve(2 * sizeof(std::uint64_t) + chunk.bytes.size());
  ByteWriter writer(content);
  writer.put(chunk.whole);
  writer.put(chunk.offset);
  writer.put_bytes(chunk.bytes);
  return content;
}

Chunk decode_chunk(std::span<const std::byte> content, const std::string& sender) {
  ByteReader reader(content, sender + ": a chunk of a broadcast");
  const auto whole = reader.get<std::uint64_t>();
  const auto offset = reader.get<std::uint64_t>();
  return {whole, offset, reader.rest()};
}

Bytes encode_consumed(std::uint64_t bytes) {
  Bytes content;
  ByteWriter(content).put(bytes);
  return content;
}

std::uint64_t decode_consumed(std::span<const std::byte> content, const std::string& sender) {
  ByteReader reader(content, sender + ": a report on a broadcast");
  const auto bytes = reader.get<std::uint64_t>();
  reader.expect_end();
  return bytes;
}

}  // namespace stella
