// The all-gather of contributions, flat: every member sends its payload to every other one.
//
//   members N, payload S bytes: N - 1 messages and (N - 1) S bytes sent per member; one message time of
//   latency.
#pragma once

#include <algorithm>
#include <asio/awaitable.hpp>
#include <chrono>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/event.hpp"
#include "base/ids.hpp"
#include "base/rank_set.hpp"
#include "exchange/payload.hpp"
#include "membership/group.hpp"
#include "stella/error.hpp"

namespace stella {

using PayloadPtr = std::shared_ptr<const Payload>;

// What an all-gather brings.
struct Gathered {
  Iteration iteration = 0;
  // By rank. Null where a member has no part in this iteration: never so in an Exchange of the base class.
  std::vector<PayloadPtr> payloads;
  // Members that need to be told the weights as they are after this iteration, by this one.
  std::vector<Rank> newcomers;
};

struct ExchangeOptions {
  std::uint32_t buckets = 1;
  // How many iterations a member may be ahead of what was gathered here; what lies beyond is a breach of
  // protocol. Bounds the memory: window x buckets x members x largest payload.
  Iteration window = 2;
  std::chrono::nanoseconds timeout = std::chrono::minutes(30);  // for one all-gather
  const char* noun = "iteration";                               // what one all-gather is of, for people
  // Of waiting for a member, after which the log names it, and again after twice as long and so on; later
  // only for more than twice the longest wait that ended well.
  std::chrono::milliseconds hint_after{5'000};
};

// Lives on the net thread: all calls there. The group must outlive it. Here every member has a part in every
// iteration; RoundExchange (round_exchange.hpp) can do without some.
class Exchange {
 public:
  Exchange(Group& group, ExchangeOptions options);
  virtual ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  // Sends `mine` and resumes with everybody's payload for its bucket and iteration, in member order, own
  // included. Each bucket and iteration once, iterations without gaps. Throws the first failure of the group,
  // or Error(timeout) that names who is missing.
  asio::awaitable<Gathered> all_gather(PayloadPtr mine);

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
  virtual void restart_after(Iteration iteration);

 protected:
  using Key = std::pair<Iteration, BucketId>;
  // One all-gather under way, from its first payload until it and all before it are complete.
  struct Round {
    explicit Round(std::uint32_t members) : payloads(members) {}
    std::vector<PayloadPtr> payloads;  // by rank
    std::optional<RankSet> of;         // the members that have a part in it, once that is decided
    std::vector<Rank> newcomers;
    Event complete;
  };

  // --- What another kind of exchange does otherwise:

  // Whom a payload of that iteration goes to, this member aside.
  virtual RankSet recipients(Iteration iteration);
  // Whose payloads of it are needed, as things stand.
  virtual RankSet needed(Iteration iteration, const Round& round) const;
  // Whether that payload counts. Throws Error(protocol) for one that a correct member cannot send.
  virtual bool wanted(Rank from, const Payload& payload);
  // A payload has come, or what is needed has changed.
  virtual void look_at(Key key);
  // Whom it waits for, for people.
  virtual RankSet awaited(Key key, const Round& round) const { return missing(key, round); }

  std::uint32_t members() const { return group_.world_size(); }
  Group& group() const { return group_; }
  const std::map<Key, std::shared_ptr<Round>>& rounds() const { return rounds_; }
  std::shared_ptr<Round> round(Key key);
  void forget_round(Key key) { rounds_.erase(key); }
  void forget_rounds() { rounds_.clear(); }
  RankSet missing(Key key, const Round& round) const;
  // What it brings, once it is decided whom it is of.
  Gathered result(Key key, const Round& round) const;
  // Resumes who waits for it.
  void complete(Key key, Round& round);
  // Up to this iteration every all-gather of the bucket is complete.
  Iteration gathered(BucketId bucket) const { return gathered_[bucket]; }
  void set_gathered(Iteration iteration) { std::ranges::fill(gathered_, iteration); }
  Error refusal(Rank from, const PayloadHeader& header, const std::string& why) const;

 private:
  void receive(Rank from, Bytes message, std::chrono::nanoseconds taken);
  void member_left(Rank rank);
  PayloadPtr parse(Rank from, Bytes message, std::chrono::nanoseconds taken) const;
  void put(Rank from, PayloadPtr payload);
  void forget_gathered(BucketId bucket);
  void note_finished(const Round& complete);
  void end_deadlock();
  Error deadlock(Iteration iteration, Rank rank, const CallAhead& theirs) const;
  void hint(Key key, std::chrono::milliseconds waited) const;
  void give_up(Key key, Round& waiting);
  std::string name_awaited(Key key, const Round& waiting) const;

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
