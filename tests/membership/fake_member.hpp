// A member that holds the secret and says what a test wants, frame by frame.
#pragma once

#include <algorithm>
#include <asio/read.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>
#include <optional>
#include <span>

#include "membership/hello.hpp"
#include "membership/member_process.hpp"
#include "net/connect.hpp"
#include "net/stream.hpp"

namespace stella::testing {

class FakeMember {
 public:
  FakeMember(Rank rank, std::uint32_t world_size) : tls_(TlsRole::client, test_secret()) {
    hello_.world_size = world_size;
    hello_.rank = rank;
    hello_.port = 1;
    hello_.host = "127.0.0.1";
    hello_.name = "fake";
  }

  // What its hello says of where it listens.
  void announce(std::string host, std::uint16_t port) {
    hello_.host = std::move(host);
    hello_.port = port;
  }
  void announce(std::chrono::milliseconds peer_timeout) { hello_.peer_timeout = peer_timeout; }
  // Shows the secret, and says nothing yet.
  void dial(const std::string& address) { net_.run(reach(this, address)); }
  // Joins the member that listens there.
  void connect(const std::string& address) {
    dial(address);
    say_hello();
    next_frame();
  }
  void say_hello() { send(FrameType::hello, encode(hello_)); }
  void send(FrameType type, const Bytes& body) { net_.run(write_frame(*stream_, type, body)); }
  void send_raw(const Bytes& bytes) { net_.run(write_raw(this, bytes)); }
  void hang_up() {
    net_.call([this] { cut(*stream_); });
  }
  // The same over a slow link: so many bytes at a time, with a pause before each.
  Frame next_frame(std::size_t piece, std::chrono::milliseconds pause) {
    return net_.run(read_slowly(this, piece, pause));
  }
  // The next frame that is no heartbeat.
  Frame next_frame() { return net_.run(read_next(this)); }

 private:
  static asio::awaitable<void> reach(FakeMember* self, std::string text) {
    const auto deadline = std::chrono::steady_clock::now() + 5s;
    const Address address = parse_address(text);
    self->stream_.emplace(co_await stella::connect(self->tls_, address, deadline));
  }
  static asio::awaitable<void> write_raw(FakeMember* self, Bytes bytes) {
    co_await asio::async_write(*self->stream_, asio::buffer(bytes), asio::use_awaitable);
  }
  static asio::awaitable<Frame> read_next(FakeMember* self) {
    for (;;) {
      Frame frame = co_await read_frame(*self->stream_, self->who_);
      if (frame.type != FrameType::heartbeat) co_return frame;
    }
  }

  static asio::awaitable<Frame> read_slowly(FakeMember* self, std::size_t piece,
                                            std::chrono::milliseconds pause) {
    FrameHeaderBytes bytes;
    co_await asio::async_read(*self->stream_, asio::buffer(bytes), asio::use_awaitable);
    const FrameHeader header = decode_frame_header(bytes, self->who_);
    Frame frame{header.type, Bytes(header.size)};
    asio::steady_timer timer(self->stream_->get_executor());
    for (std::size_t done = 0; done < frame.body.size(); done += piece) {
      timer.expires_after(pause);
      co_await timer.async_wait(asio::use_awaitable);
      const auto part = std::span(frame.body).subspan(done, std::min(piece, frame.body.size() - done));
      co_await asio::async_read(*self->stream_, asio::buffer(part.data(), part.size()), asio::use_awaitable);
    }
    co_return frame;
  }

  std::string who_ = "the member under test";
  TlsContext tls_;
  Hello hello_;
  TestThread net_;
  std::optional<TlsStream> stream_;  // used on net_'s thread
};

}  // namespace stella::testing
