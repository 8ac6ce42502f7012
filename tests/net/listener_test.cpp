#include "net/listener.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <openssl/crypto.h>
#include <spdlog/sinks/base_sink.h>
#include <sys/resource.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>
#include <list>
#include <semaphore>

#include "net/connect.hpp"
#include "net/stranger.hpp"
#include "net/stream.hpp"
#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

using Clock = std::chrono::steady_clock;

asio::awaitable<void> visit(TlsContext& tls, Address address) {
  const auto deadline = Clock::now() + 5s;
  TlsStream stream = co_await connect(tls, address, deadline);
}

// A log that says when its first line is written.
class FirstLine : public spdlog::sinks::base_sink<std::mutex> {
 public:
  std::future<void> written() { return written_.get_future(); }

 private:
  void sink_it_(const spdlog::details::log_msg&) override {
    if (!std::exchange(told_, true)) written_.set_value();
  }
  void flush_() override {}

  std::promise<void> written_;
  bool told_ = false;
};

// A listener on its thread that keeps whoever gets through.
class Door {
 public:
  explicit Door(ListenerOptions options = {})
      : listener_(net_.io(), tls_, options, std::make_shared<spdlog::logger>("door", log_)) {
    port_ = net_.call([this] { return listener_.open(); });
    Listener::Handler handler = [this](TlsStream stream, asio::ip::tcp::endpoint) {
      guests_.push_back(std::move(stream));
      let_in_.release();
    };
    running_ = net_.start(listener_.run(std::move(handler)));
  }
  ~Door() {
    net_.call([this] { listener_.close(); });
    running_.get();
    net_.call([this] { guests_.clear(); });
  }
  std::uint16_t port() const { return port_; }
  std::uint64_t refused() {
    return net_.call([this] { return listener_.refused(); });
  }
  // Returns once the first refusal is logged.
  void wait_for_a_refusal() { EXPECT_EQ(refusal_.wait_for(10s), std::future_status::ready); }
  // A member with the secret comes; throws unless it is let in. Its own handshake ends before the listener's.
  void let_in_a_member(RunSecret secret = test_secret()) {
    TestThread net;
    TlsContext tls(TlsRole::client, std::move(secret));
    net.run(visit(tls, Address{"127.0.0.1", port_}));
    EXPECT_TRUE(let_in_.try_acquire_for(10s));
  }

 private:
  const std::shared_ptr<FirstLine> log_ = std::make_shared<FirstLine>();
  std::future<void> refusal_ = log_->written();
  TlsContext tls_{TlsRole::server, test_secret()};
  TestThread net_;
  Listener listener_;
  std::list<TlsStream> guests_;
  std::counting_semaphore<> let_in_{0};
  std::uint16_t port_ = 0;
  Pending<void> running_;
};

TEST(Listener, LetsMembersIn) {
  Door door;
  door.let_in_a_member();
  EXPECT_EQ(door.refused(), 0u);
}

TEST(Listener, ListensOnBothIpVersionsWhereTheMachineHasBoth) {
  Door door;
  EXPECT_NO_THROW(Stranger(door.port(), asio::ip::address_v4::loopback()));
  asio::io_context io;
  asio::ip::tcp::acceptor probe(io);
  std::error_code no_ipv6;
  probe.open(asio::ip::tcp::v6(), no_ipv6);
  if (!no_ipv6) probe.bind({asio::ip::address_v6::loopback(), 0}, no_ipv6);
  if (no_ipv6) GTEST_SKIP() << "no IPv6 here";
  EXPECT_NO_THROW(Stranger(door.port(), asio::ip::address_v6::loopback()));
}

TEST(Listener, AnotherSecretIsAnUnauthenticatedErrorForTheMember) {
  Door door;
  const Error error = error_of([&] { door.let_in_a_member(other_secret()); });
  EXPECT_EQ(error.code(), ErrorCode::unauthenticated);
  EXPECT_NAMES(error, "another run secret");
  door.wait_for_a_refusal();
  EXPECT_EQ(door.refused(), 1u);
}

TEST(Listener, AServiceOfAnotherKindIsAnUnauthenticatedErrorForTheMember) {
  TestThread net;
  asio::io_context io;
  asio::ip::tcp::acceptor acceptor(io, {asio::ip::address_v4::loopback(), 0});
  TlsContext tls(TlsRole::client, test_secret());
  auto connecting = net.start(visit(tls, Address{"127.0.0.1", acceptor.local_endpoint().port()}));
  auto socket = acceptor.accept();
  asio::write(socket, asio::buffer("HTTP/1.0 400 Bad Request\r\n\r\n", 28));
  const Error error = error_of([&] { connecting.get(); });
  EXPECT_EQ(error.code(), ErrorCode::unauthenticated);
}

TEST(Listener, GarbageEarlyEndsAndHalfHandshakesKeepNobodyOut) {
  Door door;
  Stranger(door.port()).say("GET / HTTP/1.0\r\n\r\n");
  Stranger(door.port()).say(std::string(100'000, '\xff'));
  Stranger(door.port()).say(std::string("\x16\x03\x01\x02\x00\x01", 6));  // the start of a ClientHello
  Stranger{door.port()};
  Stranger zeros(door.port());
  zeros.say(std::string(8, '\0'));
  zeros.wait_until_thrown_out();
  door.let_in_a_member();
}

TEST(Listener, AHandshakeThatTakesTooLongIsEnded) {
  Door door({.handshake_timeout = 200ms});
  Stranger slow(door.port());
  const auto start = Clock::now();
  for (char byte : std::string("\x16\x03\x01")) {
    slow.say(std::string(1, byte));
    std::this_thread::sleep_for(30ms);  // a byte now and then buys no time
  }
  slow.wait_until_thrown_out();
  EXPECT_LT(Clock::now() - start, 2s);
  door.wait_for_a_refusal();
  EXPECT_EQ(door.refused(), 1u);
}

TEST(Listener, AFloodOfIdleConnectionsKeepsNobodyOut) {
  Door door({.half_open = 16});
  std::list<Stranger> flood;
  for (int i = 0; i < 300; ++i) flood.emplace_back(door.port());
  door.let_in_a_member();
  flood.front().wait_until_thrown_out();
  EXPECT_GE(door.refused(), 300u - 16u);
}

// While it lives, this process can open no more descriptors.
class NoDescriptors {
 public:
  NoDescriptors() {
    ::getrlimit(RLIMIT_NOFILE, &before_);
    const int next = ::open("/dev/null", O_RDONLY);
    ::close(next);
    rlimit none = before_;
    none.rlim_cur = static_cast<rlim_t>(next);
    ::setrlimit(RLIMIT_NOFILE, &none);
  }
  ~NoDescriptors() { ::setrlimit(RLIMIT_NOFILE, &before_); }

 private:
  rlimit before_{};
};

TEST(Listener, RunningOutOfDescriptorsIsSurvived) {
  Door door;
  asio::io_context io;
  asio::ip::tcp::socket stranger(io, asio::ip::tcp::v4());
  {
    const NoDescriptors none;
    stranger.connect({asio::ip::address_v4::loopback(), door.port()});
    door.wait_for_a_refusal();
  }
  EXPECT_GE(door.refused(), 1u);
  door.let_in_a_member();
}

// OpenSSL's memory, which a test may take away. OpenSSL lets itself be told only before it has used any.
std::atomic<bool> no_memory_for_tls = false;
void* tls_realloc(void* old, std::size_t size, const char*, int) {
  return no_memory_for_tls ? nullptr : std::realloc(old, size);
}
void* tls_malloc(std::size_t size, const char*, int) { return tls_realloc(nullptr, size, nullptr, 0); }
void tls_free(void* memory, const char*, int) { std::free(memory); }
const bool tls_memory_is_ours = CRYPTO_set_mem_functions(tls_malloc, tls_realloc, tls_free) == 1;

TEST(Listener, RunningOutOfMemoryForOneConnectionIsSurvived) {
  ASSERT_TRUE(tls_memory_is_ours);
  Door door;
  Stranger half_way(door.port());  // its handshake is under way all the time
  door.let_in_a_member();
  no_memory_for_tls = true;
  Stranger unlucky(door.port());
  unlucky.wait_until_thrown_out();
  no_memory_for_tls = false;
  EXPECT_EQ(door.refused(), 1u);
  door.let_in_a_member();
}

TEST(Listener, APortInUseNamesThePortAndTheVariable) {
  Door door;
  const Error error = error_of([&] { Door second({.port = door.port()}); });
  EXPECT_EQ(error.code(), ErrorCode::configuration);
  EXPECT_NAMES(error, "port " + std::to_string(door.port()));
  EXPECT_NAMES(error, "STELLA_PORT");
}

}  // namespace
}  // namespace stella::testing
