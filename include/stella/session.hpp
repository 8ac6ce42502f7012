// A member's part in a run: its identity, its connections to the other members, its engine.
//
//   stella::Session session(options);
//   session.listen();                              // world_size 1 needs neither listen nor join
//   session.join_through("10.0.0.1:29400");        // or join(addresses)
//   auto engine = session.distribute(tensors, groups, engine_options, parameters);
//   ... engine->step(...) ...
//   session.leave();
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "stella/engine.hpp"

namespace stella {

struct SessionOptions {
  std::uint32_t rank = 0;
  std::uint32_t world_size = 1;
  std::string name;                   // of this member in messages; default "member <rank>"
  std::string cluster;                // members of one cluster share fast links
  std::string host;                   // address to announce; default: the one that the others see
  std::uint16_t port = 0;             // the one port to listen on; 0: any free one
  std::string secret_file;            // the run secret (stella secret new); needed when world_size > 1,
  std::string secret;                 // here or as text
  double join_timeout_seconds = 120;  // from listen() until every member must be connected
  double peer_timeout_seconds = 10;   // of silence, after which a member is lost; members may differ
  // Called about every 100 ms on the caller's thread while a call waits for other members, the engine's calls
  // included. What it throws ends the wait, and with it this member's part in the run. For Ctrl-C.
  std::function<void()> while_waiting;
};

// What is known of a member.
struct Member {
  std::uint32_t rank = 0;
  std::string name, cluster, hostname;
  std::string address;  // host:port
};

// One member of one run. Several may live in one process. One thread may call it. All calls between join and
// leave that move data are collective: every member makes them in the same order.
class Session {
 public:
  explicit Session(const SessionOptions& options);
  // Tells the others if leave() was not called: they end with an error that names this member.
  ~Session();
  Session(const Session&) = delete;
  Session& operator=(const Session&) = delete;

  // Binds the port and returns it.
  std::uint16_t listen();
  // Connects to all members; addresses[i] is host:port of rank i, this member's own included.
  void join(const std::vector<std::string>& addresses);
  // Connects to all members, found through rank 0, which listens at `coordinator` (host:port). Rank 0 itself
  // need not know it; if it does, it calls itself by that address, as the others do.
  void join_through(const std::string& coordinator);

  const std::vector<Member>& members() const;
  // "member 2 (c1m0, 10.77.1.1:29400)": how sentences name a member.
  std::string describe(std::uint32_t rank) const;

  // Every member's bytes, by rank. A member that does not call within EngineOptions::step_timeout_seconds of
  // distribute (before: 1800 s) is Error(timeout), which names it. `tag` names the call in errors.
  std::vector<std::vector<std::byte>> all_gather(const std::string& tag, std::span<const std::byte> mine);
  // Fills everybody's `data` with that of `root`.
  void broadcast(const std::string& tag, std::uint32_t root, std::span<std::byte> data);

  // Compares model and settings with every member (Error(mismatch) names the first difference), then makes
  // rank 0's parameters everybody's. At most one engine per session at a time; it must go before the session,
  // and another one may follow only when it was drained to Level::finished (or the session is alone).
  std::unique_ptr<Engine> distribute(const std::vector<TensorSpec>& tensors,
                                     std::span<const GroupSettings> groups, const EngineOptions& options,
                                     std::span<float* const> parameters);

  // Ends in order: the others do not take it for a failure.
  void leave();
  // Ends with a reason: the others' errors name this member and say it.
  void abort(const std::string& reason);

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace stella
