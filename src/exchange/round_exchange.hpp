// The all-gather of rule="local": the rounds of those members that are there. The coordinator, member 0, says
// which they are; docs/rules.md, "Who a round is of".
//
//   members N, payload S bytes: as in Exchange, and two messages of some 20 bytes for each member and round,
//   to the coordinator and back; that round trip more of latency.
#pragma once

#include <asio/any_io_executor.hpp>
#include <atomic>
#include <chrono>
#include <functional>
#include <map>
#include <optional>
#include <vector>

#include "exchange/exchange.hpp"
#include "exchange/round_commits.hpp"
#include "exchange/round_message.hpp"
#include "exchange/round_plan.hpp"
#include "net/deadline.hpp"

namespace stella {

// Lives on the net thread, where handlers are called too.
class RoundExchange final : public Exchange {
 public:
  // For a member that was left out, in this order.
  struct Handlers {
    std::function<void()> left_out;          // all its rounds under way are over, empty
    std::function<void(Iteration)> listens;  // it hears that round, and all after it
    std::function<void(Gathered)> heard;     // the next round, of others
    // A part of the weights as they are before the first of them; may come earlier than listens.
    std::function<void(std::span<const std::byte>)> weights;
  };

  //   patience  for a member in a round, at least; or three times what rounds take, if that is more. Only the
  //             coordinator's counts.
  RoundExchange(asio::any_io_executor executor, Group& group, ExchangeOptions options,
                std::chrono::milliseconds patience, Handlers handlers);
  ~RoundExchange() override;

  // This member, which was left out, asks to hear the rounds again; anew if it hears them already.
  void rejoin();
  // It has heard all that there is, and would contribute again.
  void ready();
  // The round from which on it contributes, once that is decided and while it holds: its all_gather() of that
  // round is awaited after take_part().
  std::optional<Iteration> admitted_from() const { return admitted_from_; }
  // The most bytes that wait for a member that hears the rounds of this one. Any thread.
  std::size_t backlog() const { return backlog_; }
  // Who contributes to no round now, for people; empty if all do.
  std::string who_is_out() const;
  // Where this member's trainer waits for others' rounds: an error if some member cannot come back to them
  // before this one makes a call in which that one waits.
  std::optional<Error> deadlock(const std::string& where) const;
  void take_part();
  void restart_after(Iteration iteration) override;

 private:
  enum class State { taking_part, left_out, rejoining, listening };

  RankSet recipients(Iteration round) override;
  RankSet needed(Iteration round, const Round& looked_at) const override;
  bool wanted(Rank from, const Payload& payload) override;
  void look_at(Key key) override;
  RankSet awaited(Key key, const Round& round) const override;

  bool keep_to_hear(const Payload& payload);
  void receive(Rank from, const Bytes& message);
  void receive_commit(const RoundMessage& commit);
  void look_at_all();
  void report(Iteration round, const RankSet& set);
  void leave();
  void begin_to_listen(const RoundMessage& commit);
  void hear();
  void drop(Key key);
  void tell_coordinator(const RoundMessage& message);
  // --- Of the coordinator:
  bool coordinates() const { return commits_.has_value(); }
  void take(Rank from, const RoundMessage& message);
  void commit_what_is_possible();
  void send(const RoundMessage& message, const RankSet& to);
  void note(Rank from, Iteration round, bool trains);
  bool gets_payloads(Iteration round) const;
  void watch();
  void watch_on();
  void overdue();
  bool waits_in_call(const RankSet& ranks) const;
  void say_who_is_out(const RankSet& out, Iteration round, TimePoint::duration waited) const;
  RankSet silent() const;

  const asio::any_io_executor executor_;
  const std::chrono::milliseconds least_patience_;
  const Handlers handlers_;
  State state_ = State::taking_part;
  RoundPlan plan_;
  std::map<Iteration, RankSet> reported_;  // whose payloads this member said that it holds
  Iteration listens_from_ = 0;             // while it listens; up to there, what comes is of no use
  Iteration heard_ = 0;                    // up to this round
  std::optional<Iteration> admitted_from_;
  bool expects_gap_ =
      false;  // commits that list it as listening are of an earlier time, up to one that does not
  std::size_t kept_bytes_ = 0;  // of payloads that it has not heard, while it listens
  std::atomic<std::size_t> backlog_ = 0;
  // Of the coordinator:
  std::optional<RoundCommits> commits_;
  struct Come {
    RankSet from;
    bool somebody_trains = false;  // who only waits for the end has nothing to win by going on without one
  };
  std::map<Iteration, Come> come_;  // the payloads of rounds to be committed, also where they are of no use
  std::optional<Deadline> watch_;   // of the next round, from its first payload here
  TimePoint watched_since_{}, watch_began_{};
  TimePoint::duration patience_{};
  bool slept_ = false;
  std::chrono::duration<double> usual_{0};  // of that time, smoothed
};

}  // namespace stella
