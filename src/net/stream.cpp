#include "net/stream.hpp"

#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/ioctl.h>

#include <algorithm>
#include <array>
#include <asio/read.hpp>
#include <asio/ssl/error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>
#include <limits>

namespace stella {
namespace {

bool is_close(const std::error_code& error) {
  return is_end(error) || error == asio::error::connection_reset || error == asio::error::broken_pipe;
}

}  // namespace

asio::awaitable<Frame> read_frame(TlsStream& stream, const std::string& sender, std::size_t most) {
  FrameHeaderBytes bytes;
  co_await asio::async_read(stream, asio::buffer(bytes), asio::use_awaitable);
  const FrameHeader header = decode_frame_header(bytes, sender);
  if (header.size > most) {
    throw Error(ErrorCode::protocol, sender + " announced a " + std::string(to_string(header.type)) +
                                         " frame of " + std::to_string(header.size) +
                                         " bytes where at most " + std::to_string(most) + " are allowed");
  }
  Frame frame{header.type, Bytes(header.size)};
  const auto begin = std::chrono::steady_clock::now();
  co_await asio::async_read(stream, asio::buffer(frame.body), asio::use_awaitable);
  frame.taken = std::chrono::steady_clock::now() - begin;
  co_return frame;
}

asio::awaitable<void> write_frame(TlsStream& stream, FrameType type, const Bytes& body) {
  const FrameHeaderBytes header = encode({type, static_cast<std::uint32_t>(body.size())});
  const std::array<asio::const_buffer, 2> buffers{asio::buffer(header), asio::buffer(body)};
  co_await asio::async_write(stream, buffers, asio::use_awaitable);
}

void tune(TlsStream& stream, std::chrono::milliseconds peer_timeout) {
  using UserTimeout = asio::detail::socket_option::integer<IPPROTO_TCP, TCP_USER_TIMEOUT>;
  std::error_code ignored;  // a socket that is already broken says so at the next operation
  stream.lowest_layer().set_option(asio::ip::tcp::no_delay(true), ignored);
  const auto most = std::chrono::milliseconds(std::numeric_limits<int>::max());
  stream.lowest_layer().set_option(UserTimeout(static_cast<int>(std::min(peer_timeout, most).count())),
                                   ignored);
}

std::uint64_t wire_bytes_delivered(TlsStream& stream) {
  int on_the_way = 0;  // in the kernel; counts the end of the stream, too
  const std::uint64_t sent = wire_bytes_sent(stream);
  if (::ioctl(stream.lowest_layer().native_handle(), SIOCOUTQ, &on_the_way) != 0) return sent;
  return sent - std::min<std::uint64_t>(sent, static_cast<std::uint64_t>(on_the_way));
}

void cut(TlsStream& stream) {
  std::error_code ignored;
  stream.lowest_layer().close(ignored);
}

bool is_end(const std::error_code& error) {
  return error == asio::error::eof || error == asio::ssl::error::stream_truncated;
}

Error lost(const std::string& peer, const std::error_code& error) {
  if (is_close(error)) {
    return Error(
        ErrorCode::peer_lost,
        peer +
            " closed its connection without leaving: its process crashed or was killed, or something "
            "between the machines cut the connection; that member's log says more");
  }
  if (is_refusal(error)) {
    return Error(ErrorCode::protocol, peer + " sent bytes that TLS refuses (" + error.message() +
                                          "): something between the machines alters them");
  }
  return Error(ErrorCode::peer_lost, "the connection to " + peer + " broke: " + error.message() +
                                         "; check that its machine runs and the network to it");
}

}  // namespace stella
