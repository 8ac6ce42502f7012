#include "net/connect.hpp"

#include <asio/connect.hpp>
#include <asio/redirect_error.hpp>
#include <asio/this_coro.hpp>
#include <asio/use_awaitable.hpp>

#include "net/stream.hpp"

namespace stella {
namespace {

using asio::ip::tcp;

Error unreachable(const Address& address, const std::string& reason) {
  return Error(ErrorCode::io, to_string(address) + " cannot be reached: " + reason);
}

// Numbers need no resolver, which blocks a thread of its own.
asio::awaitable<tcp::resolver::results_type> resolve(const Address& address, TimePoint deadline) {
  std::error_code error;
  const auto number = asio::ip::make_address(address.host, error);
  if (!error) {
    const tcp::endpoint endpoint(number, address.port);
    co_return tcp::resolver::results_type::create(endpoint, address.host, std::to_string(address.port));
  }
  tcp::resolver resolver(co_await asio::this_coro::executor);
  const Deadline limit(resolver.get_executor(), deadline, [&resolver] { resolver.cancel(); });
  const std::string port = std::to_string(address.port);
  const auto found = co_await resolver.async_resolve(address.host, port, tcp::resolver::numeric_service,
                                                     asio::redirect_error(asio::use_awaitable, error));
  if (error) throw unreachable(address, "the name does not resolve (" + error.message() + ")");
  co_return found;
}

asio::awaitable<tcp::socket> connect_socket(const Address& address, TimePoint deadline) {
  const auto endpoints = co_await resolve(address, deadline);
  tcp::socket socket(co_await asio::this_coro::executor);
  const Deadline limit(socket.get_executor(), deadline, [&socket] {
    std::error_code ignored;
    socket.close(ignored);
  });
  std::error_code error;
  co_await asio::async_connect(socket, endpoints, asio::redirect_error(asio::use_awaitable, error));
  if (limit.expired()) throw unreachable(address, "no answer in time");
  if (error) throw unreachable(address, error.message());
  co_return socket;
}

asio::awaitable<void> shake_hands(TlsContext& tls, TlsStream& stream, const Address& address,
                                  TimePoint deadline) {
  const Deadline limit(stream.get_executor(), deadline, [&stream] { cut(stream); });
  std::error_code error;
  co_await stream.async_handshake(tls.handshake_type(), asio::redirect_error(asio::use_awaitable, error));
  if (is_refusal(error) || (!error && !authenticated(stream))) {
    const std::string reason = error ? error.message() : "it did not show the run secret";
    throw Error(ErrorCode::unauthenticated,
                "the handshake with " + to_string(address) + " failed (" + reason +
                    "): most likely it holds another run secret, or no member of this "
                    "run listens there; compare STELLA_SECRET_FILE (or STELLA_SECRET) on both machines");
  }
  if (limit.expired())
    throw unreachable(address, "it took the connection but did not finish the handshake in time");
  if (error) throw unreachable(address, "it hung up during the handshake (" + error.message() + ")");
}

}  // namespace

asio::awaitable<TlsStream> connect(TlsContext& tls, Address address, TimePoint deadline) {
  tcp::socket socket = co_await connect_socket(address, deadline);
  TlsStream stream = tls.wrap(std::move(socket));
  co_await shake_hands(tls, stream, address, deadline);
  co_return stream;
}

}  // namespace stella
