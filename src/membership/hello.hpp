// What two members tell each other first. Format: docs/wire.md, "Hello".
#pragma once

#include <chrono>
#include <cstdint>
#include <span>
#include <string>

#include "base/bytes.hpp"
#include "base/ids.hpp"

namespace stella {

inline constexpr std::uint16_t kProtocolVersion = 1;
inline constexpr std::size_t kMaxName = 64;   // of member, cluster and software names, in bytes
inline constexpr std::size_t kMaxHost = 255;  // of host names, in bytes
// Nobody can be asked for more heartbeats than this takes.
inline constexpr std::chrono::milliseconds kLeastPeerTimeout{10};

struct Hello {
  std::uint32_t world_size = 0;
  Rank rank = 0;
  std::uint16_t port = 0;                          // where the sender listens
  std::chrono::milliseconds peer_timeout{10'000};  // of silence, after which the sender gives a member up
  std::string name;                                // of the member
  std::string cluster;
  std::string hostname;  // of its machine
  std::string host;      // where others reach it; empty: where the connection comes from
  std::string software;  // "stellatrain <version>", for people
  friend bool operator==(const Hello&, const Hello&) = default;
};

// Texts over their limit are cut, between characters; a peer timeout over 2^32 - 1 ms (49 days) is that. What
// is no UTF-8 is replaced, here and in decode_hello.
Bytes encode(const Hello& hello);

// Throws Error(mismatch) for another protocol version, naming both, and Error(protocol) for bytes that are no
// hello, or a peer timeout below kLeastPeerTimeout. `sender` opens the sentence.
Hello decode_hello(std::span<const std::byte> bytes, const std::string& sender);

}  // namespace stella
