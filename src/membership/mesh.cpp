#include "membership/mesh.hpp"

#include <unistd.h>

#include <algorithm>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>

#include "base/text.hpp"
#include "membership/farewell.hpp"

namespace stella {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kLongestLastWords = 10s;
constexpr auto kLastWords = 2s;  // in which nothing reaches anybody: the others cannot be told why

void check(bool ok, const std::string& sentence) {
  if (!ok) throw Error(ErrorCode::invalid_argument, sentence);
}

GroupOptions checked(GroupOptions options) {
  check(options.world_size > 0, "the world size is 0; it must be at least 1");
  check(options.rank < options.world_size, "rank " + std::to_string(options.rank) +
                                               " does not exist in a world of " +
                                               std::to_string(options.world_size));
  check(options.peer_timeout >= kLeastPeerTimeout, "the peer timeout is " + to_text(options.peer_timeout) +
                                                       "; it must be at least " + to_text(kLeastPeerTimeout));
  if (options.world_size > 1 && !options.secret) {
    throw Error(
        ErrorCode::configuration,
        "a run of several members needs a run secret: make one with `stella secret new > run.key`, and set "
        "STELLA_SECRET_FILE on every member to a copy of that file");
  }
  if (options.name.empty()) options.name = "m" + std::to_string(options.rank);
  return options;
}

std::string own_hostname() {
  char name[256] = {};
  return ::gethostname(name, sizeof name - 1) == 0 ? name : "";
}

// What reaches the owner of the tasks is a bug of ours or an out-of-memory: it ends the run like any failure.
Error as_error(std::exception_ptr exception) {
  try {
    std::rethrow_exception(exception);
  } catch (const Error& error) {
    return error;
  } catch (const std::exception& error) {
    return Error(ErrorCode::io, std::string("the network thread failed: ") + error.what());
  }
}

}  // namespace

Mesh::Mesh(asio::io_context& io, GroupOptions options, Logger log)
    : io_(io),
      options_(checked(std::move(options))),
      log_(std::move(log)),
      members_(options_.world_size),
      peers_(options_.world_size),
      changed_(io.get_executor()),
      joining_(io.get_executor(), [this](std::exception_ptr error) { fail(as_error(error)); }),
      carrying_(io.get_executor(), [this](std::exception_ptr error) { fail(as_error(error)); }) {
  for (Rank rank = 0; rank < options_.world_size; ++rank) members_[rank].rank = rank;
  members_[options_.rank] = {options_.rank, options_.name, options_.cluster, own_hostname(), ""};
  if (alone()) return;
  server_tls_.emplace(TlsRole::server, *options_.secret);
  client_tls_.emplace(TlsRole::client, *options_.secret);
}

asio::awaitable<void> Mesh::serve(Rank rank, std::shared_ptr<Connection> connection) {
  try {
    Connection::Handlers handlers;
    handlers.on_frame = [this, rank](Frame frame) { handle(rank, std::move(frame)); };
    handlers.on_silence = [this](const Error& error) { fail(with_place(error)); };
    co_await connection->run(std::move(handlers));
    if (connection->peer_has_left()) note_left(rank);
  } catch (const Error& error) {
    fail(with_place(error));
  }
  changed_.notify();
}

// Whoever sends what it must not is told so, over the connection that still stands.
void Mesh::handle(Rank from, Frame frame) {
  try {
    take(from, std::move(frame));
  } catch (const Error& error) {
    fail(error);
  }
}

void Mesh::take(Rank from, Frame frame) {
  switch (frame.type) {
    case FrameType::payload:
      return on_payload(from, std::move(frame.body), frame.taken);
    case FrameType::control:
      peers_[from].inbox.put(decode_control(std::move(frame.body), describe(from)), describe(from));
      changed_.notify();
      return on_call();
    case FrameType::round:
      if (on_round) return on_round(from, frame.body);
      break;
    case FrameType::weights:
      if (on_weights) return on_weights(from, std::move(frame.body));
      break;
    case FrameType::abort:
      return fail(decode_farewell(frame.body, describe(from)));
    default:
      break;
  }
  throw Error(ErrorCode::protocol, describe(from) + " sent a " + std::string(to_string(frame.type)) +
                                       " frame in the middle of the run");
}

std::string Mesh::place() const {
  return begun_ == 0 ? "" : " (in iteration " + std::to_string(begun_) + ")";
}

// For who is told that a member was lost in the middle of training.
std::string Mesh::what_to_do() const {
  return begun_ == 0 ? "" : "; to go on, start all members again and load the last checkpoint";
}

// Of a member that was lost in the middle of training.
Error Mesh::with_place(const Error& error) const {
  if (error.code() != ErrorCode::peer_lost || begun_ == 0) return error;
  return Error(error.code(), error.what() + place() + what_to_do());
}

void Mesh::note_left(Rank rank) {
  peers_[rank].left = true;
  if (!ending()) log_->info("{} has left in order", describe(rank));
  on_left(rank);
}

void Mesh::fail(const Error& reason) {
  if (failure_) return;
  if (leaving_) return fail_to_leave(reason);
  const bool tell = joined_;
  stop(reason, reason);
  if (tell) on_failure(reason);
}

// Somebody was lost before it took everything. Connections that close carry no reason any more; the others
// get a moment to take theirs.
void Mesh::fail_to_leave(const Error& reason) {
  failure_ = reason;
  carrying_.spawn(until_told());
  changed_.notify();
}

// Ends the group: pending calls throw, everybody who can still be reached is told why.
void Mesh::stop(const Error& for_us, const Error& for_others) {
  failure_ = for_us;
  const auto farewell = std::make_shared<const Bytes>(encode(for_others));
  for (const Peer& peer : peers_) {
    if (!peer.connection) continue;
    peer.connection->discard_queue();
    peer.connection->send(FrameType::abort, farewell);
    peer.connection->close();
  }
  joining_.cancel();
  if (listener_) listener_->close();
  carrying_.spawn(until_told());
  changed_.notify();
}

// Returns once every connection has ended by itself; cuts those that have not at the deadline.
asio::awaitable<void> Mesh::until_disconnected(TimePoint deadline) {
  const Deadline limit(io_.get_executor(), deadline, [this] { cut_all(); });
  while (connected()) co_await changed_.wait();
}

// The same, and cuts them as soon as nothing reaches anybody any more: last words wait for a frame that is
// half sent, which over a slow link takes long.
asio::awaitable<void> Mesh::until_told() {
  const TimePoint latest = Clock::now() + kLongestLastWords;
  TimePoint moved = Clock::now();
  for (std::uint64_t before = bytes_delivered(); connected();) {
    const Deadline tick(io_.get_executor(), Clock::now() + kLastWords / 8, [this] { changed_.notify(); });
    while (connected() && !tick.expired()) co_await changed_.wait();
    const std::uint64_t delivered = bytes_delivered();  // less, once a connection has ended
    if (delivered > before) moved = Clock::now();
    before = delivered;
    if (Clock::now() >= std::min(moved + kLastWords, latest)) cut_all();
  }
}

void Mesh::cut_all() {
  for (const Peer& peer : peers_) {
    if (peer.connection) peer.connection->cut();
  }
  changed_.notify();
}

std::uint64_t Mesh::bytes_delivered() const {
  std::uint64_t bytes = 0;
  for (const Peer& peer : peers_) {
    if (peer.connection && !peer.connection->ended()) bytes += peer.connection->bytes_delivered();
  }
  return bytes;
}

bool Mesh::connected() const {
  return std::ranges::any_of(peers_,
                             [](const Peer& peer) { return peer.connection && !peer.connection->ended(); });
}

void Mesh::throw_if_failed() const {
  if (failure_) throw *failure_;
}

void Mesh::fail_and_throw(const Error& reason) {
  fail(reason);
  throw_if_failed();
  throw reason;
}

asio::awaitable<void> Mesh::abort(std::string sentence, ErrorCode code) {
  if (ending()) co_return;
  const std::string advice = code_for_others(code) == ErrorCode::peer_lost ? what_to_do() : "";
  stop(Error(ErrorCode::cancelled, "this member stopped: " + sentence),
       Error(code, describe(options_.rank) + " stopped: " + sentence + place() + advice));
  if (joined_) on_failure(*failure_);
  while (connected()) co_await changed_.wait();
}

asio::awaitable<void> Mesh::leave() {
  throw_if_failed();
  leaving_ = true;
  for (const Peer& peer : peers_) {
    if (!peer.connection) continue;
    peer.connection->send(FrameType::leave, nullptr);
    peer.connection->close();
  }
  joining_.cancel();
  if (listener_) listener_->close();
  carrying_.spawn(until_disconnected(Clock::now() + options_.leave_timeout));
  while (connected() && !failure_) co_await changed_.wait();
  throw_if_failed();
  for (Rank rank = 0; rank < options_.world_size; ++rank) {
    const auto& connection = peers_[rank].connection;
    if (!connection || connection->flushed() || connection->peer_has_left()) continue;
    throw Error(ErrorCode::timeout, describe(rank) + " did not take everything that was queued for it (" +
                                        std::to_string(connection->queued_bytes()) + " bytes left) within " +
                                        std::to_string(options_.leave_timeout.count()) +
                                        " ms; it may miss updates");
  }
}

asio::awaitable<void> Mesh::close() {
  const bool told = ending();  // then connections end by themselves, within their deadline
  if (!failure_) failure_ = Error(ErrorCode::cancelled, "the group of this member was closed");
  if (listener_) listener_->close();
  joining_.cancel();
  if (!told) {
    for (const Peer& peer : peers_) {
      if (peer.connection) peer.connection->cut();
    }
  }
  changed_.notify();
  co_await carrying_.join();
  co_await joining_.join();
  co_await asio::post(asio::use_awaitable);  // pending calls, which were woken before, have thrown by now
}

void Mesh::send_payload(Rank to, std::shared_ptr<const Bytes> body, Priority priority) {
  check(to < options_.world_size && to != options_.rank,
        "payloads go to another member, not to rank " + std::to_string(to));
  check(body && body->size() <= kMaxPayload, "a payload of " + std::to_string(body ? body->size() : 0) +
                                                 " bytes; the limit is " + std::to_string(kMaxPayload) +
                                                 ", and it must not be null");
  if (peers_[to].connection) peers_[to].connection->send(FrameType::payload, std::move(body), priority);
}

void Mesh::send_round(Rank to, std::shared_ptr<const Bytes> body) {
  const auto& connection = peers_.at(to).connection;
  if (connection) connection->send(FrameType::round, std::move(body));
}

void Mesh::discard_payloads() {
  for (const Peer& peer : peers_) {
    if (peer.connection) peer.connection->discard(FrameType::payload);
  }
}

std::size_t Mesh::queued_payload_bytes(Rank to) const {
  const auto& connection = peers_.at(to).connection;
  return connection ? connection->queued_bytes(FrameType::payload) : 0;
}

void Mesh::send_weights(Rank to, std::vector<std::shared_ptr<const Bytes>> bodies) {
  const auto& connection = peers_.at(to).connection;
  if (!connection) return;
  connection->discard(FrameType::weights);
  for (auto& body : bodies) connection->send(FrameType::weights, std::move(body));
}

void Mesh::set_peer_timeout(std::chrono::milliseconds timeout) {
  options_.peer_timeout = timeout;
  for (const Peer& peer : peers_) {
    if (peer.connection) peer.connection->set_peer_timeout(timeout);
  }
}

std::chrono::nanoseconds Mesh::silent_for(Rank peer) const {
  const auto& connection = peers_.at(peer).connection;
  return connection ? connection->silent_for() : std::chrono::nanoseconds(0);
}

Traffic Mesh::traffic(Rank peer) const {
  const auto& connection = peers_.at(peer).connection;
  return connection ? connection->traffic() : Traffic{};
}

}  // namespace stella
