#include "net/listener.hpp"

#include <algorithm>
#include <asio/ip/v6_only.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

#include "net/address.hpp"
#include "net/children.hpp"
#include "net/stream.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

using asio::ip::tcp;
using namespace std::chrono_literals;

constexpr auto kPauseWithoutDescriptors = 100ms;
constexpr auto kBetweenLogLines = 5s;

std::error_code bind_to(tcp::acceptor& acceptor, const tcp::endpoint& endpoint) {
  std::error_code error;
  acceptor.open(endpoint.protocol(), error);
  if (error) return error;
  if (endpoint.protocol() == tcp::v6()) acceptor.set_option(asio::ip::v6_only(false), error);
  if (!error) acceptor.set_option(tcp::acceptor::reuse_address(true), error);
  if (!error) acceptor.bind(endpoint, error);
  if (!error) acceptor.listen(asio::socket_base::max_listen_connections, error);
  std::error_code ignored;
  if (error) acceptor.close(ignored);
  return error;
}

std::string to_text(const tcp::endpoint& endpoint) {
  return to_string(Address{plain(endpoint.address()).to_string(), endpoint.port()});
}

}  // namespace

Listener::Listener(asio::io_context& io, TlsContext& tls, ListenerOptions options, Logger log)
    : tls_(tls),
      options_(options),
      log_(std::move(log)),
      acceptor_(io),
      pause_(io),
      handshakes_(io.get_executor(), [this](std::exception_ptr error) {
        try {
          std::rethrow_exception(error);
        } catch (const std::exception& failure) {
          log_->warn("an incoming connection was dropped: {}", failure.what());
        }
      }) {}

std::uint16_t Listener::open() {
  std::error_code error = bind_to(acceptor_, {tcp::v6(), options_.port});
  if (error && error != asio::error::address_in_use) error = bind_to(acceptor_, {tcp::v4(), options_.port});
  if (error) {
    throw Error(ErrorCode::configuration, "port " + std::to_string(options_.port) +
                                              " cannot be opened: " + error.message() +
                                              "; set STELLA_PORT to another one, or to 0 for any free one");
  }
  keep_from_children(acceptor_.native_handle());
  return acceptor_.local_endpoint().port();
}

asio::awaitable<void> Listener::run(Handler handler) {
  handler_ = std::move(handler);
  while (acceptor_.is_open()) {
    std::error_code error;
    tcp::socket socket = co_await acceptor_.async_accept(asio::redirect_error(asio::use_awaitable, error));
    if (!acceptor_.is_open()) break;
    if (error) {
      co_await pause(error);
    } else {
      admit(std::move(socket));
    }
  }
  co_await handshakes_.join();
}

// What fails here, for want of memory, is the end of this connection only.
void Listener::admit(tcp::socket socket) {
  std::error_code error;
  const tcp::endpoint from = socket.remote_endpoint(error);
  if (error) return;  // gone already
  if (half_open_.size() >= options_.half_open) drop_oldest();
  try {
    auto stream = std::make_shared<TlsStream>(tls_.wrap(std::move(socket)));
    half_open_.push_back(stream);
    handshakes_.spawn(shake_hands(std::move(stream), from));
  } catch (const std::exception& failure) {
    note_refusal(to_text(from), failure.what());
  }
}

asio::awaitable<void> Listener::shake_hands(std::shared_ptr<TlsStream> stream, tcp::endpoint from) {
  std::error_code error;
  {
    const auto when = std::chrono::steady_clock::now() + options_.handshake_timeout;
    const Deadline limit(acceptor_.get_executor(), when, [&stream] { cut(*stream); });
    co_await stream->async_handshake(tls_.handshake_type(), asio::redirect_error(asio::use_awaitable, error));
  }
  half_open_.remove(stream);
  if (!error && authenticated(*stream)) {
    handler_(std::move(*stream), from);
    co_return;
  }
  cut(*stream);
  note_refusal(to_text(from), error ? error.message() : "the run secret was not shown");
}

void Listener::drop_oldest() {
  const auto oldest = half_open_.front();
  half_open_.pop_front();
  cut(*oldest);
}

// Mostly for want of descriptors: strangers give theirs back, and accepting goes on a moment later.
asio::awaitable<void> Listener::pause(std::error_code reason) {
  if (!half_open_.empty()) drop_oldest();
  note_refusal("this process itself", reason.message());
  pause_.expires_after(kPauseWithoutDescriptors);
  std::error_code woken;
  co_await pause_.async_wait(asio::redirect_error(asio::use_awaitable, woken));
}

void Listener::close() {
  std::error_code ignored;
  acceptor_.close(ignored);
  pause_.cancel();
  for (const auto& stream : half_open_) cut(*stream);
}

void Listener::note_refusal(const std::string& from, const std::string& reason) {
  ++refused_;
  const auto now = std::chrono::steady_clock::now();
  if (!acceptor_.is_open() || now < next_log_) return;
  next_log_ = now + kBetweenLogLines;
  log_->warn("{} incoming connections failed the handshake since the last such line; the latest from {}: {}",
             refused_ - refused_logged_, from, reason);
  refused_logged_ = refused_;
}

}  // namespace stella
