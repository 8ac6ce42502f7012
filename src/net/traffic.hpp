// What one connection has carried.
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>

namespace stella {

// Bytes are those on the wire above TCP: frames, TLS records and handshake.
struct Traffic {
  std::uint64_t bytes_sent = 0;
  std::uint64_t bytes_received = 0;
  std::uint64_t frames_sent = 0;
  std::uint64_t frames_received = 0;
  std::size_t queued_bytes = 0;                           // waiting to be sent
  std::chrono::steady_clock::time_point last_received{};  // when the last byte came
};

}  // namespace stella
