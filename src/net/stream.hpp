// Frames over one TLS stream, one at a time: what the first exchange of two members and Connection share.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <string>
#include <system_error>

#include "base/bytes.hpp"
#include "net/deadline.hpp"
#include "net/frame.hpp"
#include "net/tls.hpp"
#include "stella/error.hpp"

namespace stella {

struct Frame {
  FrameType type;
  Bytes body;
  std::chrono::nanoseconds taken{0};  // from the end of its header to the end of its body
};

// The next frame. `sender` opens the sentence of Error(protocol), which is thrown before anything is
// allocated for a body over `most` bytes or over its type's limit. Network errors are std::system_error. Both
// references must outlive the call.
asio::awaitable<Frame> read_frame(TlsStream& stream, const std::string& sender,
                                  std::size_t most = kMaxPayload);

asio::awaitable<void> write_frame(TlsStream& stream, FrameType type, const Bytes& body);

// Sends small frames at once, and lets the kernel give up on a peer that acknowledges nothing for
// peer_timeout.
void tune(TlsStream& stream, std::chrono::milliseconds peer_timeout);

// Of the bytes that were sent, those that have come to the peer's machine.
std::uint64_t wire_bytes_delivered(TlsStream& stream);

// Ends both directions at once; pending operations fail.
void cut(TlsStream& stream);

// True where the other side closed with nothing of ours unread; false for a reset and the like.
bool is_end(const std::error_code& error);

// What a network error means when it strikes `peer` in the middle of a run: Error(peer_lost) or, for bytes
// that TLS refuses, Error(protocol).
Error lost(const std::string& peer, const std::error_code& error);

}  // namespace stella
