// Plain sockets that do to a listener what strangers do. Blocking: for the test's own thread.
#pragma once

#include <asio/connect.hpp>
#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>
#include <asio/read.hpp>
#include <asio/write.hpp>
#include <string>

namespace stella::testing {

class Stranger {
 public:
  explicit Stranger(std::uint16_t port, asio::ip::address host = asio::ip::address_v4::loopback()) {
    socket_.connect({host, port});
  }
  void say(const std::string& bytes) {
    std::error_code ignored;  // it may have been thrown out already
    asio::write(socket_, asio::buffer(bytes), ignored);
  }
  // Returns once the other side has closed.
  void wait_until_thrown_out() {
    std::array<char, 512> bytes;
    std::error_code error;
    while (!error) socket_.read_some(asio::buffer(bytes), error);
  }

 private:
  asio::io_context io_;
  asio::ip::tcp::socket socket_{io_};
};

}  // namespace stella::testing
