// The inside of Group: one connection to every other member, the first failure, and the collectives over
// them. Split over mesh.cpp (life and failure), join.cpp (how the mesh comes to be), address_table.cpp and
// collectives.cpp.
#pragma once

#include <asio/awaitable.hpp>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "membership/control.hpp"
#include "membership/group.hpp"
#include "membership/hello.hpp"
#include "net/address.hpp"
#include "net/connection.hpp"
#include "net/deadline.hpp"
#include "net/listener.hpp"
#include "net/signal.hpp"
#include "net/task_group.hpp"
#include "net/tls.hpp"

namespace stella {

// Calls are documented in group.hpp.
class Mesh {
 public:
  Mesh(asio::io_context& io, GroupOptions options, Logger log);

  std::uint16_t listen();
  asio::awaitable<void> join(std::vector<std::string> addresses);
  asio::awaitable<void> join_through(std::string coordinator);

  const GroupOptions& options() const { return options_; }
  const std::vector<MemberInfo>& members() const { return members_; }

  void send_payload(Rank to, std::shared_ptr<const Bytes> body, Priority priority);
  void send_round(Rank to, std::shared_ptr<const Bytes> body);
  bool waits_in_call() const { return gathering_ > 0; }
  void discard_payloads();
  std::size_t queued_payload_bytes(Rank to) const;
  void send_weights(Rank to, std::vector<std::shared_ptr<const Bytes>> bodies);
  void set_peer_timeout(std::chrono::milliseconds timeout);
  std::chrono::nanoseconds silent_for(Rank peer) const;
  Traffic traffic(Rank peer) const;
  const Logger& log() const { return log_; }

  asio::awaitable<std::vector<Bytes>> all_gather(Collective kind, std::string tag, Bytes mine);
  using Parts = std::vector<std::span<std::byte>>;  // memory in several places, as one
  asio::awaitable<void> broadcast(std::string tag, Rank root, Parts parts);
  std::optional<CallAhead> call_ahead(Rank rank) const;
  void set_begun(Iteration iteration) { begun_ = iteration; }
  void set_collective_timeout(std::chrono::milliseconds timeout) { options_.collective_timeout = timeout; }

  bool has_left(Rank rank) const { return peers_.at(rank).left; }
  const Error* failure() const { return failure_ ? &*failure_ : nullptr; }
  asio::awaitable<void> abort(std::string sentence, ErrorCode code);
  asio::awaitable<void> leave();
  asio::awaitable<void> close();

  PayloadHandler on_payload = [](Rank, Bytes, std::chrono::nanoseconds) {};
  std::function<void(Rank, const Bytes&)> on_round;  // none: such frames are a breach
  std::function<void(Rank, Bytes)> on_weights;
  std::function<void(const Error&)> on_failure = [](const Error&) {};
  std::function<void(Rank)> on_left = [](Rank) {};
  std::function<void()> on_call = [] {};

 private:
  struct Peer {
    std::shared_ptr<Connection> connection;  // null until the member has joined
    ControlInbox inbox;
    bool left = false;
    std::string last_attempt;  // why it could not be reached yet
  };

  // join.cpp
  void start_accepting();
  asio::awaitable<void> greet(TlsStream stream, asio::ip::tcp::endpoint from);
  asio::awaitable<void> refuse(TlsStream& stream, const Error& reason, const std::string& stranger);
  std::optional<Error> objection_to(const Hello& hello, const std::string& address) const;
  asio::awaitable<void> dial(Rank to);
  asio::awaitable<void> dial_once(Rank to);
  asio::awaitable<void> until_complete();
  void add_peer(const Hello& hello, std::string address, TlsStream stream, bool answer);
  Hello own_hello() const;
  bool complete() const;
  Error not_complete() const;
  // In the log: at once, and while what it returns lives, again with what is missing.
  Deadline say_who_is_awaited();
  // "after 5 s this run of 3 still lacks member 1: connection refused; check that ..."
  std::string still_lacks(std::chrono::milliseconds after) const;

  // address_table.cpp
  asio::awaitable<void> receive_addresses(const Address& coordinator);
  void send_addresses();

  // mesh.cpp
  asio::awaitable<void> serve(Rank rank, std::shared_ptr<Connection> connection);
  void handle(Rank from, Frame frame);
  void take(Rank from, Frame frame);
  std::string place() const;  // " (in iteration 5)"; before the first: nothing
  std::string what_to_do() const;
  Error with_place(const Error& error) const;
  void note_left(Rank rank);
  void fail(const Error& reason);
  void fail_to_leave(const Error& reason);
  void stop(const Error& for_us, const Error& for_others);
  asio::awaitable<void> until_disconnected(TimePoint deadline);
  asio::awaitable<void> until_told();
  void cut_all();
  std::uint64_t bytes_delivered() const;
  bool connected() const;
  void throw_if_failed() const;
  [[noreturn]] void fail_and_throw(const Error& reason);
  std::string describe(Rank rank) const { return stella::describe(members_.at(rank)); }
  bool ending() const { return failure_ || leaving_; }
  bool alone() const { return options_.world_size == 1; }

  // collectives.cpp
  Call next_call(Collective kind, std::string tag);
  void send_control(Rank to, const Call& call, std::span<const std::byte> content);
  asio::awaitable<ControlMessage> receive(Rank from, const Call& call);
  asio::awaitable<ControlMessage> next_message(Rank from, const Call& call);
  void check_same_call(Rank from, const Call& theirs, const Call& ours);
  asio::awaitable<void> broadcast_from_here(const Call& call, const Parts& parts);
  asio::awaitable<void> await_consumed(const Call& call, std::vector<std::uint64_t>& consumed,
                                       std::uint64_t least);
  asio::awaitable<void> await_the_rest(const Call& call, Rank from, std::uint64_t whole);
  asio::awaitable<void> broadcast_to_here(const Call& call, Rank root, const Parts& parts);
  void send_to_all(const Call& call, std::span<const std::byte> content);

  asio::io_context& io_;
  GroupOptions options_;
  Logger log_;
  std::vector<MemberInfo> members_;  // by rank
  std::vector<Peer> peers_;          // by rank; our own stays empty
  std::optional<TlsContext> server_tls_;
  std::optional<TlsContext> client_tls_;
  std::optional<Listener> listener_;
  std::uint16_t port_ = 0;
  TimePoint join_by_{};  // the join timeout runs from listen()
  std::uint64_t calls_ = 0;
  int gathering_ = 0;    // all_gathers of this member's that wait
  Iteration begun_ = 0;  // by this member's trainer

  bool joined_ = false;
  bool awaits_addresses_ = false;  // from member 0
  bool leaving_ = false;
  std::optional<Error> failure_;
  Signal changed_;     // anything above, or a control message
  TaskGroup joining_;  // incoming hellos and outgoing attempts; cancelled at the end
  TaskGroup
      carrying_;  // the listener, one coroutine per connection, the wait for last words; end by themselves
};

}  // namespace stella
