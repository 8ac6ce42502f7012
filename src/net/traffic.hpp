// What one connection has carried.
#pragma once

#include <cstdint>

namespace stella {

// Bytes are those on the wire above TCP: frames, TLS records and handshake.
struct Traffic {
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
};

}  // namespace stella
