#include "net/connection.hpp"

#include <algorithm>
#include <array>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/write.hpp>
#include <cstdio>

namespace stella {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

// How long a peer whose connection no longer takes bytes may still be heard: its last words say why.
constexpr auto kLastWords = 2s;

int urgency(FrameType type) {
  switch (type) {
    case FrameType::abort:
      return 0;
    case FrameType::hello:
      return 1;
    case FrameType::heartbeat:
      return 1;
    case FrameType::control:
      return 2;
    case FrameType::round:
      return 2;
    case FrameType::payload:
      return 3;
    case FrameType::weights:
      return 4;
    case FrameType::leave:
      return 5;
  }
  return 5;
}

std::size_t size_of(const std::shared_ptr<const Bytes>& body) { return body ? body->size() : 0; }

}  // namespace

Connection::Connection(TlsStream stream, std::string peer, ConnectionOptions options)
    : stream_(std::move(stream)),
      peer_(std::move(peer)),
      options_(options),
      changed_(stream_.get_executor()),
      watch_timer_(stream_.get_executor()),
      last_received_(Clock::now()),
      next_key_at_(options.key_lifetime) {
  tune(stream_, options_.peer_timeout);
}

asio::awaitable<void> Connection::run(Handlers handlers) {
  using namespace asio::experimental::awaitable_operators;
  co_await (until_end(read_frames(handlers)) && until_end(write_frames()) && until_end(watch(handlers)));
  if (error_) std::rethrow_exception(error_);
}

// One of the three loops; its failure is the end of all.
asio::awaitable<void> Connection::until_end(asio::awaitable<void> loop) {
  try {
    co_await std::move(loop);
  } catch (const std::system_error& error) {
    const bool awaited = flushed_ && is_end(error.code());  // by close()
    end(awaited ? nullptr : std::make_exception_ptr(lost(peer_, error.code())));
  } catch (...) {
    end(std::current_exception());
  }
}

asio::awaitable<void> Connection::read_frames(const Handlers& handlers) {
  while (!ended_) {
    Frame frame = co_await read_frame(stream_, peer_);
    note_life(Clock::now());
    if (frame.type == FrameType::leave) {
      peer_has_left_ = true;
      break;
    }
    if (frame.type != FrameType::heartbeat && !closing_) handlers.on_frame(std::move(frame));
  }
  end(nullptr);
}

// A failed write ends the writing only. The reader goes on to the peer's last words and then ends all.
asio::awaitable<void> Connection::write_frames() {
  try {
    while (!ended_) {
      if (!queue_.empty()) {
        co_await write_next();
      } else if (closing_) {
        break;
      } else {
        co_await changed_.wait();
      }
    }
    flushed_ = !ended_;
    std::error_code ignored;  // the reader sees a broken connection
    stream_.lowest_layer().shutdown(asio::ip::tcp::socket::shutdown_send, ignored);
  } catch (const std::system_error&) {
    write_failed_ = Clock::now();
    watch_timer_.cancel();
  }
}

asio::awaitable<void> Connection::write_next() {
  const Outgoing next = take_next();
  if (next.type == FrameType::heartbeat) heartbeat_queued_ = false;
  const std::size_t size = size_of(next.body);
  const FrameHeaderBytes header = encode({next.type, static_cast<std::uint32_t>(size)});
  const std::array<asio::const_buffer, 2> buffers{
      asio::buffer(header), asio::const_buffer(next.body ? next.body->data() : nullptr, size)};
  co_await asio::async_write(stream_, buffers, asio::use_awaitable);
  queued_bytes_ -= kFrameHeaderSize + size;
  if (wire_bytes_sent(stream_) >= next_key_at_) {
    renew_sending_key(stream_);
    next_key_at_ = wire_bytes_sent(stream_) + options_.key_lifetime;
  }
  changed_.notify();
}

Connection::Outgoing Connection::take_next() {
  const auto first = queue_.begin();
  const auto weights = queue_.lower_bound({urgency(FrameType::weights), {}, 0});
  const bool none = weights == queue_.end() || weights->second.type != FrameType::weights;
  if (none || first->second.type == FrameType::weights) {  // which lack nothing
    payloads_ahead_ = 0;
  } else if (first->second.type == FrameType::payload) {
    const std::size_t part = size_of(weights->second.body);
    if (payloads_ahead_ >= part) {
      payloads_ahead_ -= part;
      return std::move(queue_.extract(weights).mapped());
    }
    payloads_ahead_ += size_of(first->second.body);
  }
  return std::move(queue_.extract(first).mapped());
}

asio::awaitable<void> Connection::watch(const Handlers& handlers) {
  const auto tick = std::min(options_.heartbeat, options_.peer_timeout / 8);
  TimePoint next_heartbeat = Clock::now();
  while (!ended_) {
    const auto now = Clock::now();
    note_life(now);
    if (now >= write_failed_ + kLastWords) throw lost(peer_, asio::error::broken_pipe);
    if (is_silent(now)) {
      if (closing_ || !handlers.on_silence) throw silence(now);
      handlers.on_silence(silence(now));
    }
    if (now >= next_heartbeat) {
      queue_heartbeat();
      next_heartbeat = now + options_.heartbeat;
    }
    watch_timer_.expires_at(std::min(now + tick, next_heartbeat));
    std::error_code woken;
    co_await watch_timer_.async_wait(asio::redirect_error(asio::use_awaitable, woken));
  }
}

void Connection::queue_heartbeat() {
  if (heartbeat_queued_ || closing_) return;
  heartbeat_queued_ = true;
  send(FrameType::heartbeat, nullptr);
}

// Bytes count as they come, so that a long frame over a slow link is life too.
void Connection::note_life(TimePoint now) {
  const auto bytes = wire_bytes_received(stream_);
  if (bytes == bytes_seen_) return;
  bytes_seen_ = bytes;
  last_received_ = now;
}

bool Connection::is_silent(TimePoint now) {
  if (now < last_received_ + options_.peer_timeout) return false;
  std::error_code error;
  // Bytes that lie in our own buffers mean that it was this process that slept.
  if (stream_.lowest_layer().available(error) == 0 || error) return true;
  last_received_ = now;
  return false;
}

Error Connection::silence(TimePoint now) const {
  const std::chrono::duration<double> silent = now - last_received_;
  const std::chrono::duration<double> limit = options_.peer_timeout;
  char seconds[64];
  std::snprintf(seconds, sizeof seconds, "%.1f s (limit %.1f s)", silent.count(), limit.count());
  return Error(ErrorCode::peer_lost,
               peer_ + " sent nothing for " + seconds +
                   ": its process hangs, or its machine or the network to it is down; if it "
                   "is only slow, raise STELLA_PEER_TIMEOUT");
}

void Connection::send(FrameType type, std::shared_ptr<const Bytes> body, Priority priority) {
  if (ended_ || closing_) return;
  queued_bytes_ += kFrameHeaderSize + size_of(body);
  queue_.emplace(Order{urgency(type), priority, tickets_++}, Outgoing{type, std::move(body)});
  changed_.notify();
}

void Connection::close() {
  closing_ = true;
  changed_.notify();
}

void Connection::discard_queue() {
  for (const auto& [order, outgoing] : queue_) queued_bytes_ -= kFrameHeaderSize + size_of(outgoing.body);
  queue_.clear();
  heartbeat_queued_ = false;
  changed_.notify();
}

void Connection::discard(FrameType type) {
  std::erase_if(queue_, [&](const auto& entry) {
    if (entry.second.type != type) return false;
    queued_bytes_ -= kFrameHeaderSize + size_of(entry.second.body);
    return true;
  });
}

std::size_t Connection::queued_bytes(FrameType type) const {
  std::size_t bytes = 0;
  for (const auto& [order, outgoing] : queue_) {
    if (outgoing.type == type) bytes += kFrameHeaderSize + size_of(outgoing.body);
  }
  return bytes;
}

void Connection::set_peer_timeout(std::chrono::milliseconds timeout) {
  options_.peer_timeout = timeout;
  tune(stream_, timeout);
  watch_timer_.cancel();
}

std::chrono::nanoseconds Connection::silent_for() {
  const auto now = Clock::now();
  note_life(now);
  return now - last_received_;
}

void Connection::cut() { end(nullptr); }

Traffic Connection::traffic() {
  return {.bytes_sent = wire_bytes_sent(stream_), .bytes_received = wire_bytes_received(stream_)};
}

std::uint64_t Connection::bytes_delivered() { return wire_bytes_delivered(stream_); }

// The first reason stays.
void Connection::end(std::exception_ptr error) {
  if (ended_) return;
  ended_ = true;
  error_ = error;
  queue_.clear();
  stella::cut(stream_);
  watch_timer_.cancel();
  changed_.notify();
}

}  // namespace stella
