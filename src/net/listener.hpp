// The one port of a member.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <cstdint>
#include <functional>
#include <list>
#include <memory>
#include <string>

#include "base/log.hpp"
#include "net/task_group.hpp"
#include "net/tls.hpp"

namespace stella {

struct ListenerOptions {
  std::uint16_t port = 0;                              // 0: any free one
  std::chrono::milliseconds handshake_timeout{5'000};  // for strangers to show the secret
  std::size_t half_open = 64;  // handshakes at once; one more, and the oldest is dropped
};

// Accepts, shakes hands and passes on who holds the run secret. A stranger costs a handshake slot for a
// moment and a log line; running out of descriptors costs a pause, out of memory that connection. One thread.
// It must live until run() has returned.
class Listener {
 public:
  using Handler = std::function<void(TlsStream stream, asio::ip::tcp::endpoint from)>;

  // `tls` must outlive the streams.
  Listener(asio::io_context& io, TlsContext& tls, ListenerOptions options, Logger log);

  // Opens the port, for IPv6 and IPv4 where the machine has both, and returns it. Throws Error(configuration)
  // that names the port when it is taken.
  std::uint16_t open();
  // Accepts until close(); call after open().
  asio::awaitable<void> run(Handler handler);
  // Ends run(), and handshakes that are under way.
  void close();

  // Connections that did not finish the handshake, so far.
  std::uint64_t refused() const { return refused_; }

 private:
  using HalfOpen = std::list<std::shared_ptr<TlsStream>>;  // oldest first

  void admit(asio::ip::tcp::socket socket);
  asio::awaitable<void> shake_hands(std::shared_ptr<TlsStream> stream, asio::ip::tcp::endpoint from);
  void drop_oldest();
  asio::awaitable<void> pause(std::error_code reason);
  void note_refusal(const std::string& from, const std::string& reason);

  TlsContext& tls_;
  ListenerOptions options_;
  Logger log_;
  asio::ip::tcp::acceptor acceptor_;
  asio::steady_timer pause_;
  Handler handler_;  // of run()
  HalfOpen half_open_;
  TaskGroup handshakes_;
  std::uint64_t refused_ = 0;
  std::uint64_t refused_logged_ = 0;
  std::chrono::steady_clock::time_point next_log_{};
};

}  // namespace stella
