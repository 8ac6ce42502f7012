// The all-gather of contributions, flat: every member sends its payload to every other one.
//
//   members N, payload S bytes: N - 1 messages and (N - 1) S bytes sent per member; one message time of
//   latency.
#pragma once

#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/event.hpp"
#include "base/ids.hpp"
#include "exchange/payload.hpp"
#include "membership/group.hpp"
#include "stella/error.hpp"

namespace stella {

using PayloadPtr = std::shared_ptr<const Payload>;

struct ExchangeOptions {
  std::uint32_t buckets = 1;
  // How many iterations a member may be ahead of what was gathered here; what lies beyond is a breach of
  // protocol. Bounds the memory: window x buckets x members x largest payload.
  Iteration window = 2;
  std::chrono::nanoseconds timeout = std::chrono::minutes(30);  // for one all-gather
  // Of waiting for a member, after which the log names it, and again after twice as long and so on; later
  // only for more than twice the longest wait that ended well.
  std::chrono::milliseconds hint_after{5'000};
};

// Lives on the net thread: all calls there. The group must outlive it.
class Exchange {
 public:
  Exchange(Group& group, ExchangeOptions options);
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Sends `mine` and resumes with everybody's payload for its bucket and iteration, in member order, own
  // included. Each bucket and iteration once, iterations without gaps. Throws the first failure of the group,
  // or Error(timeout) that names who is missing.
  asio::awaitable<std::vector<PayloadPtr>> all_gather(PayloadPtr mine);

  // The trainer's thread has begun that iteration, before anything else that it calls.
  void began(Iteration iteration);
  // The trainer's thread waits until that iteration is gathered, and calls nothing before. If a member has
  // called a collective in place of that iteration, each of the two waits for the other: the all-gather
  // throws Error(mismatch) that says so.
  //   where  "in step()"; stands behind "waits" in that sentence
  void trainer_waits_for(Iteration iteration, std::string where);

  // Every all-gather, under way or to come, throws `error`.
  void fail(const Error& error);

  // Continue after `iteration`: nothing older is expected any more. Only while no all-gather is under way.
  // Once everybody has done so: began(iteration).
  void restart_after(Iteration iteration);

 private:
  using Key = std::pair<Iteration, BucketId>;
  // One all-gather under way, from its first payload until it and all before it are complete.
  struct Round {
    explicit Round(std::size_t members) : payloads(members) {}
    std::vector<PayloadPtr> payloads;  // by rank
    std::size_t missing() const;
    Event complete;
  };

  void receive(Rank from, Bytes message, std::chrono::nanoseconds taken);
  void member_left(Rank rank);
  std::shared_ptr<Round> round(Key key);
  PayloadPtr parse(Rank from, Bytes message, std::chrono::nanoseconds taken) const;
  void put(Rank from, PayloadPtr payload);
  void forget_gathered(BucketId bucket);
  void note_finished(const Round& complete);
  void end_deadlock();
  Error deadlock(Iteration iteration, Rank rank, const CallAhead& theirs) const;
  void hint(Key key, std::chrono::milliseconds waited) const;
  void give_up(Key key, Round& waiting);
  std::string missing(const Round& waiting) const;

  Group& group_;
  ExchangeOptions options_;
  std::map<Key, std::shared_ptr<Round>> rounds_;
  std::vector<Iteration> gathered_;  // by bucket: up to this iteration every all-gather is complete
  std::unique_ptr<Error> failure_;
  std::chrono::milliseconds longest_{0};  // wait so far
  Iteration awaited_ = 0;                 // by the trainer's thread
  std::string awaited_where_;
  std::vector<bool> noted_finished_;  // by rank
};

}  // namespace stella
