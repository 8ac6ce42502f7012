#include "net/connection.hpp"

#include <gtest/gtest.h>

#include <asio/experimental/awaitable_operators.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>
#include <condition_variable>
#include <mutex>

#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

using asio::ip::tcp;
using Clock = std::chrono::steady_clock;

Bytes text(std::string_view letters) {
  Bytes bytes;
  for (char letter : letters) bytes.push_back(static_cast<std::byte>(letter));
  return bytes;
}

// Two authenticated streams that face each other, each with a thread of its own.
class Streams {
 public:
  Streams() {
    tcp::acceptor acceptor(left_net.io(), {asio::ip::address_v4::loopback(), 0});
    tcp::socket left_socket(left_net.io());
    left_socket.connect(acceptor.local_endpoint());
    tcp::socket right_socket = acceptor.accept(right_net.io());
    left.emplace(client_.wrap(std::move(left_socket)));
    right.emplace(server_.wrap(std::move(right_socket)));
    auto one = left_net.start(shake(*left, asio::ssl::stream_base::client));
    right_net.run(shake(*right, asio::ssl::stream_base::server));
    one.get();
  }

  TestThread left_net;
  TestThread right_net;
  std::optional<TlsStream> left;
  std::optional<TlsStream> right;

 private:
  static asio::awaitable<void> shake(TlsStream& stream, asio::ssl::stream_base::handshake_type type) {
    co_await stream.async_handshake(type, asio::use_awaitable);
  }
  TlsContext client_{TlsRole::client, test_secret()};
  TlsContext server_{TlsRole::server, test_secret()};
};

// A running connection that keeps what it receives.
class End {
 public:
  End(TestThread& net, TlsStream stream, ConnectionOptions options) : net_(net) {
    net_.call([&] { connection_.emplace(std::move(stream), "member 2 (peer)", options); });
  }
  ~End() {
    net_.call([this] { connection_->cut(); });
    if (running_.valid()) running_.wait();
    net_.call([this] { connection_.reset(); });
  }
  void run() {
    Connection::Handlers handlers;
    handlers.on_frame = [this](Frame frame) {
      std::lock_guard lock(mutex_);
      frames_.push_back(std::move(frame));
      arrived_.notify_all();
    };
    running_ = net_.start(connection_->run(std::move(handlers)));
  }
  // Returns or throws what run() did.
  void wait_for_end() { running_.get(); }
  std::vector<Frame> frames(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(arrived_.wait_for(lock, 10s, [&] { return frames_.size() >= count; }));
    return frames_;
  }
  template <class F>
  auto on_thread(F function) {
    return net_.call([&] { return function(*connection_); });
  }
  void send(FrameType type, Bytes body, Priority priority = {}) {
    auto shared = std::make_shared<const Bytes>(std::move(body));
    on_thread([&](Connection& connection) { connection.send(type, shared, priority); });
  }
  Connection& connection() { return *connection_; }
  TestThread& net() { return net_; }

 private:
  TestThread& net_;
  std::optional<Connection> connection_;
  Pending<void> running_;
  std::mutex mutex_;  // guards what follows
  std::vector<Frame> frames_;
  std::condition_variable arrived_;
};

const ConnectionOptions kQuick{.peer_timeout = 600ms, .heartbeat = 100ms};

// Two connections; the test starts them.
struct Link {
  explicit Link(ConnectionOptions options = kQuick)
      : left(streams.left_net, std::move(*streams.left), options),
        right(streams.right_net, std::move(*streams.right), options) {}
  void run() {
    left.run();
    right.run();
  }
  Streams streams;
  End left;
  End right;
};

TEST(Connection, FramesArriveWholeAndInOrder) {
  Link link;
  link.run();
  for (std::size_t size : {0u, 1u, 16384u, 3'000'001u})
    link.left.send(FrameType::payload, Bytes(size, std::byte{7}));
  const auto frames = link.right.frames(4);
  EXPECT_EQ(frames[0].body.size(), 0u);
  EXPECT_EQ(frames[3].body, Bytes(3'000'001, std::byte{7}));
}

TEST(Connection, TheMostUrgentFrameLeavesFirst) {
  Link link;
  link.left.send(FrameType::leave, {});
  const std::string weights(100, 'w');  // more than all payloads
  link.left.send(FrameType::weights, text(weights));
  link.left.send(FrameType::payload, text("second bucket of iteration 1"), {1, 1});
  link.left.send(FrameType::payload, text("iteration 2"), {2, 0});
  link.left.send(FrameType::payload, text("first bucket"), {1, 0});
  link.left.send(FrameType::payload, text("first bucket again"), {1, 0});
  link.left.send(FrameType::control, text("control"));
  link.left.send(FrameType::round, text("round"));
  link.left.send(FrameType::abort, text("abort"));
  link.run();
  const auto frames = link.right.frames(8);
  const std::string_view order[] = {
      "abort",       "control", "round", "first bucket", "first bucket again", "second bucket of iteration 1",
      "iteration 2", weights};
  for (std::size_t i = 0; i < std::size(order); ++i) EXPECT_EQ(frames[i].body, text(order[i])) << order[i];
  link.right.wait_for_end();
  EXPECT_TRUE(link.right.connection().peer_has_left());
}

// Or a member that listens over a slow link would never get them.
TEST(Connection, WeightsLeaveAsManyBytesAsPayloadsThatNeverEnd) {
  Link link;
  for (const char* part : {"weights 1", "weights 2", "weights 3"})
    link.left.send(FrameType::weights, text(part));
  for (std::uint64_t k = 1; k <= 6; ++k) link.left.send(FrameType::payload, text("12345"), {k, 0});
  link.left.send(FrameType::round, text("round"));
  link.run();
  const auto frames = link.right.frames(10);
  const char* const order[] = {"round", "12345",     "12345", "weights 1", "12345",
                               "12345", "weights 2", "12345", "12345",     "weights 3"};
  for (std::size_t i = 0; i < std::size(order); ++i) EXPECT_EQ(frames[i].body, text(order[i])) << i;
}

// All at once, so that they wait for one another.
void send_weights_and_payloads(End& from, int weights, std::size_t part, std::vector<std::size_t> payloads) {
  from.on_thread([&](Connection& connection) {
    const auto body = [](std::size_t size) { return std::make_shared<const Bytes>(size); };
    for (int k = 0; k < weights; ++k) connection.send(FrameType::weights, body(part));
    for (const std::size_t size : payloads) connection.send(FrameType::payload, body(size), {});
  });
}

// "p" and "w" for each payload and each part of weights.
std::string kinds_of(const std::vector<Frame>& frames) {
  std::string kinds;
  for (const Frame& frame : frames) kinds += frame.type == FrameType::weights ? 'w' : 'p';
  return kinds;
}

TEST(Connection, PayloadsThatComeAfterAPauseGoFirstAgainWhateverLeftBeforeIt) {
  Link link;
  link.run();
  send_weights_and_payloads(link.left, 1, 10, {100});  // the weights end in the pause
  EXPECT_EQ(kinds_of(link.right.frames(2)), "pw");
  send_weights_and_payloads(link.left, 2, 10, {5, 5, 5});
  EXPECT_EQ(kinds_of(link.right.frames(7)),
            "pw"
            "ppwpw");
  send_weights_and_payloads(link.left, 1, 10, {100, 1});  // they end before the payloads do
  EXPECT_EQ(kinds_of(link.right.frames(10)),
            "pw"
            "ppwpw"
            "pwp");
  send_weights_and_payloads(link.left, 1, 10, {5, 5, 5});
  EXPECT_EQ(kinds_of(link.right.frames(14)),
            "pw"
            "ppwpw"
            "pwp"
            "ppwp");
}

TEST(Connection, PayloadsThatLeftBeforeThereWereWeightsDoNotCountAgainstThem) {
  Link link;
  link.left.send(FrameType::payload, Bytes(100'000, std::byte{7}), {1, 0});
  link.run();
  EXPECT_EQ(link.right.frames(1).size(), 1u);
  link.left.on_thread([](Connection& connection) {
    const auto body = [](const char* letters) { return std::make_shared<const Bytes>(text(letters)); };
    connection.send(FrameType::weights, body("weights"));
    connection.send(FrameType::payload, body("payload"), {2, 0});
  });
  const auto frames = link.right.frames(3);
  EXPECT_EQ(frames[1].body, text("payload"));
  EXPECT_EQ(frames[2].body, text("weights"));
}

// Answers each of so many heartbeats with one.
asio::awaitable<void> answer_heartbeats(TlsStream& stream, int count) {
  const std::string sender = "the connection under test";
  const Bytes nothing;
  for (int i = 0; i < count; ++i) {
    const Frame frame = co_await read_frame(stream, sender);
    EXPECT_EQ(frame.type, FrameType::heartbeat);
    co_await write_frame(stream, FrameType::heartbeat, nothing);
  }
}

TEST(Connection, WhatIsQueuedOfOneTypeMayBeDropped) {
  Link link;
  link.left.send(FrameType::weights, text("one"));
  link.left.send(FrameType::payload, text("two"));
  link.left.send(FrameType::weights, text("three"));
  EXPECT_EQ(link.left.connection().queued_bytes(FrameType::payload), kFrameHeaderSize + 3);
  EXPECT_EQ(link.left.connection().queued_bytes(FrameType::weights), 2 * kFrameHeaderSize + 8);
  link.left.on_thread([](Connection& connection) { connection.discard(FrameType::weights); });
  EXPECT_EQ(link.left.connection().queued_bytes(), kFrameHeaderSize + 3);
  link.left.send(FrameType::weights, text("four"));
  link.run();
  const auto frames = link.right.frames(2);
  EXPECT_EQ(frames[0].body, text("two"));
  EXPECT_EQ(frames[1].body, text("four"));
}

TEST(Connection, HeartbeatsKeepAnIdleConnectionAlive) {
  Streams streams;
  End left(streams.left_net, std::move(*streams.left), kQuick);
  const auto start = Clock::now();
  left.run();
  streams.right_net.run(answer_heartbeats(*streams.right, 15));
  EXPECT_GE(Clock::now() - start, 1300ms);  // they come each 100 ms; silence ends a connection after 600 ms
  EXPECT_FALSE(left.on_thread([](Connection& connection) { return connection.ended(); }));
}

TEST(Connection, SilenceIsALostPeerNamedWithTheLimit) {
  Streams streams;
  End left(streams.left_net, std::move(*streams.left), kQuick);
  const auto start = Clock::now();
  left.run();
  const Error error = error_of([&] { left.wait_for_end(); });
  EXPECT_EQ(error.code(), ErrorCode::peer_lost);
  EXPECT_NAMES(error, "member 2 (peer) sent nothing for");
  EXPECT_NAMES(error, "limit 0.6 s");
  EXPECT_GE(Clock::now() - start, 600ms);
  EXPECT_LT(Clock::now() - start, 1000ms);
}

TEST(Connection, ThePeerTimeoutMayBeRaisedOnceItRunsAndSilenceIsToldBefore) {
  Streams streams;
  End left(streams.left_net, std::move(*streams.left), kQuick);
  left.run();
  left.on_thread([](Connection& connection) { connection.set_peer_timeout(5s); });
  std::this_thread::sleep_for(2 * kQuick.peer_timeout);
  EXPECT_FALSE(left.on_thread([](Connection& connection) { return connection.ended(); }));
  EXPECT_GE(left.on_thread([](Connection& connection) { return connection.silent_for(); }),
            2 * kQuick.peer_timeout);
  left.on_thread([](Connection& connection) { connection.set_peer_timeout(1s); });
  EXPECT_NAMES(error_of([&] { left.wait_for_end(); }), "limit 1.0 s");
}

asio::awaitable<void> write_slowly(TlsStream& stream, Bytes bytes, std::chrono::milliseconds pause) {
  asio::steady_timer timer(co_await asio::this_coro::executor);
  for (const std::byte& byte : bytes) {
    co_await asio::async_write(stream, asio::buffer(&byte, 1), asio::use_awaitable);
    timer.expires_after(pause);
    co_await timer.async_wait(asio::use_awaitable);
  }
}

// The time of a link, not of its sender.
TEST(Connection, AFrameTellsHowLongItsBytesTookAndNotHowLongItWasAwaited) {
  Streams streams;
  const auto begin = Clock::now();
  auto awaited = streams.right_net.start(read_frame(*streams.right, "the other side"));
  EXPECT_EQ(awaited.wait_for(200ms), std::future_status::timeout);
  streams.left_net.run(write_frame(*streams.left, FrameType::payload, Bytes(1000)));
  EXPECT_LT(awaited.get().taken, Clock::now() - begin - 200ms);

  const auto trickling = Clock::now();
  awaited = streams.right_net.start(read_frame(*streams.right, "the other side"));
  const FrameHeaderBytes header = encode({FrameType::payload, 8});
  Bytes bytes(header.begin(), header.end());
  bytes.resize(header.size() + 8);
  streams.left_net.run(write_slowly(*streams.left, bytes, 30ms));
  const auto taken = awaited.get().taken;
  EXPECT_GE(taken, 7 * 20ms);  // from the header's end to the last byte
  EXPECT_LT(taken, Clock::now() - trickling - 8 * 20ms);
}

TEST(Connection, ALongFrameThatTricklesInIsLife) {
  Streams streams;
  End left(streams.left_net, std::move(*streams.left), kQuick);
  left.run();
  const FrameHeaderBytes header = encode({FrameType::payload, 4});
  Bytes bytes(header.begin(), header.end());
  bytes.resize(bytes.size() + 4);
  streams.right_net.run(write_slowly(*streams.right, bytes, 150ms));  // 1.8 s in all
  EXPECT_EQ(left.frames(1)[0].body, Bytes(4));
}

TEST(Connection, BytesThatCannotLeaveDoNotHideThatThePeerIsDead) {
  Streams streams;
  End left(streams.left_net, std::move(*streams.left), kQuick);
  left.send(FrameType::payload, Bytes(kMaxPayload));  // more than all buffers hold; nobody reads
  const auto start = Clock::now();
  left.run();
  EXPECT_EQ(error_of([&] { left.wait_for_end(); }).code(), ErrorCode::peer_lost);
  EXPECT_LT(Clock::now() - start, 1500ms);
}

TEST(Connection, AClosedStreamIsALostPeerUnlessItSaidThatItLeaves) {
  Link link;
  link.run();
  link.right.on_thread([](Connection& connection) { connection.cut(); });
  const Error error = error_of([&] { link.left.wait_for_end(); });
  EXPECT_EQ(error.code(), ErrorCode::peer_lost);
  EXPECT_NAMES(error, "without leaving");
}

TEST(Connection, AFrameThatBreaksOffIsALostPeer) {
  Streams streams;
  End left(streams.left_net, std::move(*streams.left), kQuick);
  left.run();
  const FrameHeaderBytes header = encode({FrameType::payload, 100});
  Bytes bytes(header.begin(), header.end());
  bytes.resize(50);
  streams.right_net.run(write_slowly(*streams.right, bytes, 0ms));
  streams.right_net.call([&] { cut(*streams.right); });
  EXPECT_EQ(error_of([&] { left.wait_for_end(); }).code(), ErrorCode::peer_lost);
  EXPECT_EQ(left.frames(0).size(), 0u);
}

TEST(Connection, AnAlteredByteIsRefusedByTls) {
  Streams streams;
  End left(streams.left_net, std::move(*streams.left), kQuick);
  left.run();
  streams.right_net.call([&] {  // a record that is no record of this session
    const Bytes forged = text(std::string("\x17\x03\x03\x00\x20", 5) + std::string(32, 'x'));
    asio::write(streams.right->next_layer(), asio::buffer(forged));
  });
  const Error error = error_of([&] { left.wait_for_end(); });
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_NAMES(error, "member 2 (peer)");
  EXPECT_NAMES(error, "TLS refuses");
}

TEST(Connection, ClosingSendsWhatIsQueuedAndEndsInOrderOnBothSides) {
  Link link;
  link.run();
  for (int i = 0; i < 10; ++i) link.left.send(FrameType::payload, Bytes(1'000'000));
  link.left.send(FrameType::leave, {});
  link.left.on_thread([](Connection& connection) { connection.close(); });
  link.left.wait_for_end();
  link.right.wait_for_end();
  EXPECT_EQ(link.right.frames(10).size(), 10u);
  EXPECT_TRUE(link.left.connection().flushed());
  EXPECT_TRUE(link.right.connection().peer_has_left());
}

TEST(Connection, LastWordsAreHeardEvenWhenWritingFails) {
  Link link;
  link.left.run();
  link.right.run();
  // Left keeps writing into a peer that says why it goes and then goes.
  link.left.send(FrameType::payload, Bytes(kMaxPayload));
  link.right.send(FrameType::abort, text("because"));
  EXPECT_EQ(link.left.frames(1)[0].body, text("because"));
  link.right.on_thread([](Connection& connection) { connection.cut(); });
  EXPECT_EQ(error_of([&] { link.left.wait_for_end(); }).code(), ErrorCode::peer_lost);
}

TEST(Connection, KeysAreRenewedUnderWay) {
  ConnectionOptions options = kQuick;
  options.key_lifetime = 100'000;
  Link link(options);
  link.run();
  for (int i = 0; i < 50; ++i) {
    link.left.send(FrameType::payload, Bytes(100'000, static_cast<std::byte>(i)));
    link.right.send(FrameType::payload, Bytes(100'000, static_cast<std::byte>(i)));
  }
  EXPECT_EQ(link.right.frames(50)[49].body, Bytes(100'000, std::byte{49}));
  EXPECT_EQ(link.left.frames(50)[49].body, Bytes(100'000, std::byte{49}));
}

TEST(Connection, TheQueueIsVisibleAndBodiesAreShared) {
  Link link;
  const auto body = std::make_shared<const Bytes>(Bytes(1'000'000));
  for (End* end : {&link.left, &link.right}) {
    end->on_thread([&](Connection& connection) {
      for (int i = 0; i < 3; ++i) connection.send(FrameType::payload, body);
      EXPECT_EQ(connection.queued_bytes(), 3 * (body->size() + kFrameHeaderSize));
    });
  }
  EXPECT_EQ(body.use_count(), 7);
  link.run();
  link.right.frames(3);
  link.left.frames(3);
}

}  // namespace
}  // namespace stella::testing
