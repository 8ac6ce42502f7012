// A live connection to one member, after both have proved that they hold the run secret.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <compare>
#include <cstdint>
#include <exception>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "base/bytes.hpp"
#include "base/cpu_pool.hpp"
#include "net/signal.hpp"
#include "net/stream.hpp"
#include "net/traffic.hpp"

namespace stella {

struct ConnectionOptions {
  std::chrono::milliseconds peer_timeout{10'000};  // of silence, after which the peer is lost
  std::chrono::milliseconds heartbeat{1'000};      // how often this side proves that it lives
  std::uint64_t key_lifetime = std::uint64_t{64}
                               << 30;  // bytes sent under one key (AES-GCM's safe limit is 6x that)
};

// Sends frames in order of urgency, reads frames, proves life and watches for it. One thread. It must live
// until run() has returned.
class Connection {
 public:
  // `peer` opens the sentence of every error: "member 2 (c1m0, 10.77.0.3:4242)".
  Connection(TlsStream stream, std::string peer, ConnectionOptions options);

  struct Handlers {
    // Gets every frame but heartbeats and leave; what it throws ends the connection.
    std::function<void(Frame)> on_frame;
    // If set, silence does not end run() with an error but calls this: for last words, in case the peer wakes
    // up, and close().
    std::function<void(const Error&)> on_silence;
  };

  // Reads, writes and watches until the end. Returns when the peer has left in order, after cut(), and after
  // close() once everything is sent and the peer has closed too; throws Error(peer_lost) or Error(protocol)
  // when the peer closes otherwise, falls silent or breaks the format.
  asio::awaitable<void> run(Handlers handlers);

  // Queues a frame: abort first, then control and round, then payloads by priority and weights, equal ones
  // in call order, leave last. Weights go when no payload waits, and as many bytes of them as of payloads
  // while some always wait: the link may never be without. The body is shared, not copied. Dropped when the
  // connection has ended.
  void send(FrameType type, std::shared_ptr<const Bytes> body, Priority priority = {});

  // Sends what is queued, then nothing more, and lets run() return once the peer has closed its side too.
  // Frames that still come are not handled.
  void close();
  // Drops the queue. What is half sent goes on.
  void discard_queue();
  // The same of the frames of one type.
  void discard(FrameType type);
  // In place of ConnectionOptions::peer_timeout.
  void set_peer_timeout(std::chrono::milliseconds timeout);
  // Since the last byte came.
  std::chrono::nanoseconds silent_for();
  // Ends run() at once; the peer sees a crash unless it has been told otherwise.
  void cut();

  bool ended() const { return ended_; }
  // The peer has said that it leaves in order.
  bool peer_has_left() const { return peer_has_left_; }
  // All that was queued before close() has been handed to the kernel.
  bool flushed() const { return flushed_; }
  std::size_t queued_bytes() const { return queued_bytes_; }
  // The same of the frames of one type, but for one that is half sent.
  std::size_t queued_bytes(FrameType type) const;
  Traffic traffic();
  // On the wire, of those that traffic() counts as sent.
  std::uint64_t bytes_delivered();

 private:
  static constexpr TimePoint kNever = TimePoint::max() - std::chrono::hours(1);  // something can be added

  // Smaller leaves first.
  struct Order {
    int urgency;
    Priority priority;
    std::uint64_t ticket;
    friend auto operator<=>(const Order&, const Order&) = default;
  };
  struct Outgoing {
    FrameType type;
    std::shared_ptr<const Bytes> body;
  };

  asio::awaitable<void> until_end(asio::awaitable<void> loop);
  asio::awaitable<void> read_frames(const Handlers& handlers);
  asio::awaitable<void> write_frames();
  asio::awaitable<void> write_next();
  Outgoing take_next();
  asio::awaitable<void> watch(const Handlers& handlers);
  void queue_heartbeat();
  void note_life(TimePoint now);
  bool is_silent(TimePoint now);
  Error silence(TimePoint now) const;
  void end(std::exception_ptr error);

  TlsStream stream_;
  std::string peer_;
  ConnectionOptions options_;

  std::map<Order, Outgoing> queue_;
  // Bytes of payloads that left while weights waited and payloads never ended, less those of weights.
  std::size_t payloads_ahead_ = 0;
  std::uint64_t tickets_ = 0;
  std::size_t queued_bytes_ = 0;
  bool heartbeat_queued_ = false;
  bool closing_ = false;
  bool flushed_ = false;
  Signal changed_;  // the queue, closing_, ended_

  bool ended_ = false;
  std::exception_ptr error_;
  bool peer_has_left_ = false;

  asio::steady_timer watch_timer_;
  TimePoint last_received_;
  TimePoint write_failed_ = kNever;
  std::uint64_t bytes_seen_ = 0;  // of wire_bytes_received, at last_received_
  std::uint64_t next_key_at_;     // of wire_bytes_sent
};

}  // namespace stella
