// The members of one run, joined by a full mesh of encrypted connections.
//
// Life: construct, listen(), then join() or join_through(); then payloads and collectives; then leave() or
// abort(), or the first failure of any member ends it for all. Always finish with close() before destruction.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/io_context.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "base/cpu_pool.hpp"
#include "base/ids.hpp"
#include "base/log.hpp"
#include "membership/member.hpp"
#include "net/secret.hpp"
#include "net/traffic.hpp"
#include "stella/error.hpp"

namespace stella {

class Mesh;

// A collective that one member has called, and another has not.
struct CallAhead {
  std::string call;     // "all_gather \"save\" (collective number 3)"
  Iteration begun = 0;  // what its caller had begun by then: set_begun()
};

struct GroupOptions {
  Rank rank = 0;
  std::uint32_t world_size = 1;
  std::string name;        // for people; default "m<rank>"
  std::string cluster;     // may be empty
  std::string host;        // where others reach this member; empty: member 0 sees it from the connection
  std::uint16_t port = 0;  // to listen on; 0: any free one
  std::optional<RunSecret> secret;  // required when world_size > 1

  std::chrono::milliseconds join_timeout{120'000};  // from listen() until every member must be connected
  // A member that sends no byte for so long is lost. At least 10 ms. Members may differ: each proves that it
  // lives four times as often as the other one needs it, and every second.
  std::chrono::milliseconds peer_timeout{10'000};
  std::chrono::milliseconds collective_timeout{1'800'000};  // until every member must have made the same call
  std::chrono::milliseconds leave_timeout{30'000};          // for leave() to send what is queued
  // Of waiting for a member, after which the log names it; then after twice as long, and so on.
  std::chrono::milliseconds hint_after{5'000};
};

//   taken  from the first byte of the body here to the last
using PayloadHandler = std::function<void(Rank from, Bytes body, std::chrono::nanoseconds taken)>;

// Threads: everything, construction and destruction included, happens on the one thread that runs `io`.
// Handlers are called there too; they must not block and must not destroy the group.
//
// Errors: every call throws stella::Error, whose sentence names the member concerned. The first failure wins:
// from then on every pending and later call of this member throws it, and all others are told of it before
// their connections close, so that every member reports the member that really failed.
class Group {
 public:
  // Throws Error(invalid_argument) or Error(configuration) for options that cannot work.
  Group(asio::io_context& io, GroupOptions options, Logger log);
  // After close(), or once `io` no longer runs.
  ~Group();
  Group(const Group&) = delete;
  Group& operator=(const Group&) = delete;

  // Opens the port and returns it (0 with one member: no socket at all). Throws Error(configuration) when it
  // is in use. Others may connect from now on.
  std::uint16_t listen();

  // Completes once this member is connected with every other one. `addresses` are "host:port" by rank. Throws
  // Error(timeout) that names the missing members, Error(unauthenticated) for another run secret, or
  // Error(mismatch). After a throw only close() may follow. Call listen() before.
  asio::awaitable<void> join(std::vector<std::string> addresses);
  // The same with one address only: where member 0 listens. Member 0 itself only calls itself by it, as the
  // others do; there it may be empty.
  asio::awaitable<void> join_through(std::string coordinator);

  Rank rank() const;
  std::uint32_t world_size() const;
  // By rank, this member included. Complete once joined.
  const std::vector<MemberInfo>& members() const;
  // "member 2 (c1m0, 10.77.0.3:4242)".
  std::string describe(Rank rank) const;

  // --- Payloads. Their content is the exchange's affair.

  // Set before join(): faster members may send before this one's join() has returned. An Error that the
  // handler throws ends the run; its sentence should name the sender.
  void on_payload(PayloadHandler handler);
  // Queues `body` (at most kMaxPayload bytes of net/frame.hpp) for one member; smaller priorities leave
  // first, equal ones in call order. The same body may go to several members: nothing is copied. Does nothing
  // if the member has left or the group has failed (on_left and on_failure have told).
  void send_payload(Rank to, std::shared_ptr<const Bytes> body, Priority priority);

  // --- Rounds of rule="local": what is small and urgent, and what can wait. Their content is the exchange's
  // affair, too; errors as of payloads.

  void on_round(std::function<void(Rank from, const Bytes& message)> handler);
  void send_round(Rank to, std::shared_ptr<const Bytes> message);
  void on_weights(std::function<void(Rank from, Bytes part)> handler);
  // In place of those that are queued for it. Each part has at most kMaxWeights bytes of net/frame.hpp.
  void send_weights(Rank to, std::vector<std::shared_ptr<const Bytes>> parts);
  // Of payloads that wait to be sent to that member.
  std::size_t queued_payload_bytes(Rank to) const;
  // Drops the payloads that wait to be sent.
  void discard_payloads();
  std::chrono::milliseconds peer_timeout() const;
  // In place of GroupOptions::peer_timeout.
  void set_peer_timeout(std::chrono::milliseconds timeout);
  // Since the last byte of it came; 0 for this member itself.
  std::chrono::nanoseconds silent_for(Rank peer) const;

  // --- Collectives. Every member makes the same calls in the same order, each with the same tag; a different
  // one is Error(mismatch) that names both. A member that has left is Error(peer_lost) for those who need it,
  // one that does not call within collective_timeout Error(timeout).

  // Everybody's bytes by rank. `mine` is at most kMaxControl - 1 KiB bytes.
  asio::awaitable<std::vector<Bytes>> all_gather(std::string tag, Bytes mine);
  // Everybody's `data` becomes the root's. Sizes must agree, else Error(mismatch). `data` must stay alive
  // until it returns; any size: at most kBroadcastWindow bytes are in flight to each member.
  asio::awaitable<void> broadcast(std::string tag, Rank root, std::span<std::byte> data);
  // The same for memory in several places, as if it were one behind the other: it costs the two trips once.
  asio::awaitable<void> broadcast(std::string tag, Rank root, std::vector<std::span<std::byte>> parts);
  asio::awaitable<void> barrier(std::string tag);
  // What the other member has called and this one has not, which it will wait for.
  std::optional<CallAhead> call_ahead(Rank rank) const;
  // This member waits in an all_gather or a barrier.
  bool waits_in_call() const;
  // Called when a message of a collective has come: call_ahead() may tell more.
  void on_call(std::function<void()> handler);
  // Calls from now on tell the others that this member has begun so many iterations.
  void set_begun(Iteration iteration);
  // For what waits from now on, in place of GroupOptions::collective_timeout.
  void set_collective_timeout(std::chrono::milliseconds timeout);

  // --- The end.

  // Called once, when a member fails after join(): killed, silent, cut off, misbehaving or stopped, by
  // abort() here too.
  void on_failure(std::function<void(const Error&)> handler);
  // Called when a member has left in order. Not a failure unless somebody needs that member later.
  void on_left(std::function<void(Rank)> handler);
  bool has_left(Rank rank) const;
  // Null while all is well.
  const Error* failure() const;

  // For a failure of this member itself: everybody else fails with "member 2 (...) stopped: <sentence>", an
  // Error of that code if it is mismatch, protocol or timeout, else peer_lost; pending calls here throw
  // Error(cancelled). Returns when the others have been told or cannot be:
  // for 2 s nothing has reached anybody, or 10 s are over. Does nothing after a failure.
  asio::awaitable<void> abort(std::string sentence, ErrorCode code = ErrorCode::peer_lost);
  // Orderly end: what is queued is sent, then others see has_left(). Returns once that has reached them, or
  // throws Error(timeout), or the failure of the group or, at once, of a member that had not taken
  // everything.
  asio::awaitable<void> leave();
  // Ends every connection and coroutine of the group. Pending calls throw before it returns, which takes no
  // time, but for what a failure's last words or a leave() under way still need: see there. To the others, a
  // member that closes without leave() or abort() has crashed. May be called at any time, more than once.
  asio::awaitable<void> close();

  // This member's, for what its users should know.
  const Logger& log() const;
  // Since the connection began; zeros for this member itself.
  Traffic traffic(Rank peer) const;

 private:
  std::unique_ptr<Mesh> mesh_;  // src/membership/mesh.hpp
};

// Of one broadcast, to each member.
inline constexpr std::size_t kBroadcastChunk = std::size_t{1} << 20;
inline constexpr std::size_t kBroadcastWindow = 16 * kBroadcastChunk;

}  // namespace stella
