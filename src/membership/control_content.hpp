// What lies in the control messages of the table of addresses and of a broadcast. Format: docs/wire.md,
// "Control". Each decode_ throws Error(protocol) for bytes that are none; `sender` opens the sentence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "net/address.hpp"

namespace stella {

// By rank. An empty host stands for the one by which the receiver reaches member 0.
Bytes encode_addresses(const std::vector<Address>& addresses);
// `expected` members, no more and no less.
std::vector<Address> decode_addresses(std::span<const std::byte> bytes, std::size_t expected,
                                      const std::string& sender);

// From the root. The first one has no bytes and announces the size of the whole.
struct Chunk {
  std::uint64_t whole;
  std::uint64_t offset;
  std::span<const std::byte> bytes;
};
Bytes encode(const Chunk& chunk);
// Its bytes lie in `content`.
Chunk decode_chunk(std::span<const std::byte> content, const std::string& sender);

// To the root: how many bytes of the whole the sender has consumed.
Bytes encode_consumed(std::uint64_t bytes);
std::uint64_t decode_consumed(std::span<const std::byte> content, const std::string& sender);

}  // namespace stella
