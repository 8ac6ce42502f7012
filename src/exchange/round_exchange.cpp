#include "exchange/round_exchange.hpp"

#include <algorithm>
#include <memory>
#include <utility>

#include "base/text.hpp"

namespace stella {
namespace {

using Clock = std::chrono::steady_clock;

constexpr Rank kCoordinator = 0;
constexpr double kSmoothing = 0.2;
constexpr double kPatience = 3;  // times what rounds take
constexpr int kSlept = 2;        // times what it should take takes a timer of a process that stood still
constexpr int kInCall = 6;       // times as patient with who waits in a call of all, and soon for all
constexpr std::size_t kMostQueued = std::size_t{256} << 20;  // bytes, for a member that only listens
constexpr std::size_t kMostKept = std::size_t{1} << 30;      // bytes, by such a member

}  // namespace

RoundExchange::RoundExchange(asio::any_io_executor executor, Group& group, ExchangeOptions options,
                             std::chrono::milliseconds patience, Handlers handlers)
    : Exchange(group, options),
      executor_(std::move(executor)),
      least_patience_(patience),
      handlers_(std::move(handlers)),
      plan_(members(), 0) {
  restart_after(0);
  group.on_round([this](Rank from, const Bytes& message) { receive(from, message); });
  group.on_weights([this](Rank, const Bytes& message) {
    if (state_ != State::taking_part) handlers_.weights(message);
  });
}

RoundExchange::~RoundExchange() {
  group().on_round([](Rank, const Bytes&) {});
  group().on_weights([](Rank, Bytes) {});
}

void RoundExchange::restart_after(Iteration iteration) {
  Exchange::restart_after(iteration);
  state_ = State::taking_part;
  plan_ = RoundPlan(members(), iteration);
  reported_.clear();
  admitted_from_.reset();
  watch_.reset();
  come_.clear();
  if (group().rank() == kCoordinator) commits_.emplace(members(), iteration);
}

// --- Who a round is of

RankSet RoundExchange::recipients(Iteration round) {
  RankSet to(members());
  if (state_ != State::taking_part || !plan_.knows(round)) return to;
  std::size_t backlog = 0;
  for (Rank rank = 0; rank < members(); ++rank) {
    if (plan_.contributing(round).has(rank)) to.add(rank);
    if (!plan_.listening(round).has(rank)) continue;
    const std::size_t queued = group().queued_payload_bytes(rank);
    backlog = std::max(backlog, queued);
    if (queued < kMostQueued) to.add(rank);  // or it begins anew, once it sees the gap
  }
  backlog_ = backlog;
  return to;
}

RankSet RoundExchange::needed(Iteration round, const Round& looked_at) const {
  if (looked_at.of) return *looked_at.of;
  return plan_.knows(round) ? plan_.contributing(round) : RankSet::all(members());
}

RankSet RoundExchange::awaited(Key key, const Round& round) const {
  RankSet who = missing(key, round);
  if (!who.empty() || round.of) return who;
  if (coordinates() && key.first == commits_->round()) who = commits_->awaited();
  if (who.empty()) who.add(kCoordinator);  // its commit
  return who;
}

// The commit that says from when on it listens may come later than what it hears.
bool RoundExchange::keep_to_hear(const Payload& payload) {
  if (state_ != State::rejoining && (state_ != State::listening || payload.header().iteration <= heard_))
    return false;
  kept_bytes_ += payload.bytes().size();
  if (kept_bytes_ <= kMostKept) return true;
  leave();  // its trainer does not hear them; it begins anew with its next step
  return false;
}

// What a member sent to a round that went on without it may come at any time, over a link that was cut, say.
bool RoundExchange::wanted(Rank from, const Payload& payload) {
  const PayloadHeader& header = payload.header();
  if (coordinates()) note(from, header.iteration, header.level != Level::finished);
  if (state_ != State::taking_part) return keep_to_hear(payload);
  if (header.iteration <= gathered(0)) return false;
  if (plan_.knows(header.iteration) && !plan_.contributing(header.iteration).has(from)) return false;
  return Exchange::wanted(from, payload);
}

// --- What comes

void RoundExchange::look_at(Key key) {
  const auto looked_at = round(key);
  if (state_ == State::rejoining) return;
  if (state_ == State::left_out) {
    looked_at->of = RankSet(members());
    return complete(key, *looked_at);
  }
  if (state_ == State::listening) return hear();
  const PayloadPtr mine = looked_at->payloads[group().rank()];
  if (!mine) return;
  if (coordinates()) note(group().rank(), key.first, mine->header().level != Level::finished);
  // A coordinator that is out gets no payloads: this is how it sees that the round has begun.
  if (plan_.knows(key.first) && !plan_.contributing(key.first).has(kCoordinator) &&
      !reported_.contains(key.first)) {
    RankSet begun(members());
    begun.add(group().rank());
    report(key.first, begun);
  }
  if (!missing(key, *looked_at).empty()) return;
  if (looked_at->of) return complete(key, *looked_at);
  if (plan_.knows(key.first)) report(key.first, plan_.contributing(key.first));
}

void RoundExchange::look_at_all() {
  std::vector<Key> keys;
  for (const auto& [key, round] : rounds()) keys.push_back(key);
  for (const Key& key : keys) {
    if (rounds().contains(key)) look_at(key);
  }
}

// This member holds the payloads of these members, its own among them.
void RoundExchange::report(Iteration round, const RankSet& set) {
  const auto [known, is_new] = reported_.try_emplace(round, set);
  if (!is_new && known->second == set) return;
  known->second = set;
  RoundMessage message = round_message(RoundMessageKind::holds, round, members());
  message.set = set;
  tell_coordinator(message);
}

void RoundExchange::tell_coordinator(const RoundMessage& message) {
  if (coordinates()) return take(group().rank(), message);
  group().send_round(kCoordinator, std::make_shared<const Bytes>(encode(message)));
}

void RoundExchange::receive(Rank from, const Bytes& bytes) {
  const std::string sender = group().describe(from);
  const RoundMessage message = decode_round_message(bytes, members(), sender);
  const bool decides = message.kind == RoundMessageKind::proposal || message.kind == RoundMessageKind::commit;
  if (decides ? from != kCoordinator : !coordinates()) {
    throw Error(ErrorCode::protocol, sender + " sent a message about rounds that is not for " +
                                         group().describe(group().rank()) + " to receive from it");
  }
  if (!decides) return take(from, message);
  try {
    if (message.kind == RoundMessageKind::commit) return receive_commit(message);
    if (state_ != State::taking_part || message.round != plan_.committed() + 1) return;
    plan_.shrink(message.set);
    look_at_all();
  } catch (const Error& error) {
    throw Error(error.code(), sender + ": " + error.what());
  }
}

void RoundExchange::receive_commit(const RoundMessage& commit) {
  const Rank me = group().rank();
  if (state_ == State::left_out) return;
  if (state_ == State::rejoining) return begin_to_listen(commit);
  const auto [left, newcomers] = plan_.commit(commit);
  reported_.erase(reported_.begin(), reported_.upper_bound(commit.round));
  if (left.has(me)) return leave();
  if (state_ == State::listening) {
    if (!admitted_from_ && commit.contributing.has(me)) admitted_from_ = commit.round + kRoundNotice;
    if (!admitted_from_ && !commit.listening.has(me)) return leave();
    if (commit.round < listens_from_) return;
  }
  const Key key{commit.round, 0};
  const auto committed = round(key);
  committed->of = commit.set;
  if (commit.set.first() == me) {
    for (Rank rank = 0; rank < members(); ++rank) {
      if (newcomers.has(rank)) committed->newcomers.push_back(rank);
    }
  }
  look_at_all();
}

// --- A member that is not there

void RoundExchange::begin_to_listen(const RoundMessage& commit) {
  const bool listed = commit.listening.has(group().rank());
  expects_gap_ = expects_gap_ && listed;
  if (!listed || expects_gap_) return;
  state_ = State::listening;
  plan_.begin_with(commit);
  listens_from_ = commit.round + kRoundNotice;
  heard_ = listens_from_ - 1;
  while (!rounds().empty() && rounds().begin()->first.first <= heard_) drop(Key(rounds().begin()->first));
  handlers_.listens(listens_from_);
}

void RoundExchange::leave() {
  state_ = State::left_out;
  group().discard_payloads();  // of rounds that go on without this member
  reported_.clear();
  admitted_from_.reset();
  look_at_all();
  handlers_.left_out();
}

void RoundExchange::rejoin() {
  expects_gap_ = true;
  state_ = State::rejoining;
  admitted_from_.reset();
  kept_bytes_ = 0;
  forget_rounds();
  tell_coordinator(round_message(RoundMessageKind::rejoins, 0, members()));
}

void RoundExchange::ready() { tell_coordinator(round_message(RoundMessageKind::ready, 0, members())); }

std::optional<Error> RoundExchange::deadlock(const std::string& where) const {
  const Rank me = group().rank();
  for (Rank rank = 0; rank < members(); ++rank) {
    const auto call = group().call_ahead(rank);
    const bool both_in = state_ == State::taking_part && plan_.contributing(plan_.committed() + 1).has(rank);
    if (!call || both_in) continue;
    return Error(ErrorCode::mismatch,
                 group().describe(rank) + " waits in " + call->call + " for " + group().describe(me) +
                     ", which waits " + where +
                     " for rounds of both: all members must make the same calls (consensus, save, mean, "
                     "finish) in the same order");
  }
  return std::nullopt;
}

std::string RoundExchange::who_is_out() const {
  std::string all;
  for (Rank rank = 0; rank < members(); ++rank) {
    if (!plan_.contributing(plan_.committed() + 1).has(rank))
      all += (all.empty() ? "" : ", ") + group().describe(rank);
  }
  return all;
}

// A round that was kept to be heard.
void RoundExchange::drop(Key key) {
  for (const PayloadPtr& payload : round(key)->payloads) {
    if (payload) kept_bytes_ -= payload->bytes().size();
  }
  forget_round(key);
}

// In order, up to the round from which on it contributes.
void RoundExchange::hear() {
  for (;;) {
    if (admitted_from_ && heard_ + 1 >= *admitted_from_) return;
    const Key key{heard_ + 1, 0};
    const auto next = rounds().find(key);
    if (next == rounds().end() || !next->second->of || !missing(key, *next->second).empty()) return;
    Gathered gathered = result(key, *next->second);
    drop(key);
    ++heard_;
    handlers_.heard(std::move(gathered));
  }
}

void RoundExchange::take_part() {
  state_ = State::taking_part;
  set_gathered(*admitted_from_ - 1);
  admitted_from_.reset();
  reported_.clear();
  look_at_all();
}

// --- The coordinator

void RoundExchange::take(Rank from, const RoundMessage& message) {
  switch (message.kind) {
    case RoundMessageKind::holds:
      if (!gets_payloads(message.round)) note(from, message.round, /*trains=*/true);
      commits_->holds(from, message.round, message.set);
      break;
    case RoundMessageKind::rejoins:
      commits_->rejoins(from);
      break;
    default:
      commits_->ready(from);
  }
  commit_what_is_possible();
}

void RoundExchange::commit_what_is_possible() {
  while (const auto commit = commits_->commit()) {
    if (watch_) {
      const std::chrono::duration<double> taken = Clock::now() - watched_since_;
      usual_ += kSmoothing * (taken - usual_);
      watch_.reset();
    }
    come_.erase(come_.begin(), come_.upper_bound(commit->round));
    send(*commit, commits_->audience());
    commits_->sent();
    const RankSet deaf = commits_->listening().both(silent());
    for (Rank rank = 0; rank < members(); ++rank) {
      if (deaf.has(rank)) commits_->stop_listening(rank);
    }
    receive_commit(*commit);
    watch();
  }
}

void RoundExchange::send(const RoundMessage& message, const RankSet& to) {
  const auto bytes = std::make_shared<const Bytes>(encode(message));
  for (Rank rank = 0; rank < members(); ++rank) {
    if (rank != group().rank() && to.has(rank)) group().send_round(rank, bytes);
  }
}

// Of a member whose payload has come, or that says that it has begun the round.
void RoundExchange::note(Rank from, Iteration round, bool trains) {
  if (round < commits_->round() || round > commits_->round() + 2 * kRoundNotice) return;
  Come& come = come_.try_emplace(round, Come{RankSet(members())}).first->second;
  come.from.add(from);
  come.somebody_trains |= trains;
  watch();
}

// From the first payload of the next round on it is awaited.
void RoundExchange::watch() {
  if (watch_ || !come_.contains(commits_->round())) return;
  watched_since_ = Clock::now();
  patience_ = std::max<Clock::duration>(least_patience_,
                                        std::chrono::duration_cast<Clock::duration>(kPatience * usual_));
  watch_on();
}

void RoundExchange::watch_on() {
  watch_began_ = Clock::now();
  watch_.emplace(executor_, watch_began_ + patience_, [this] { overdue(); });
}

bool RoundExchange::gets_payloads(Iteration round) const {
  return state_ == State::taking_part && plan_.knows(round) && plan_.contributing(round).has(kCoordinator);
}

void RoundExchange::overdue() {
  const auto waited = Clock::now() - watched_since_;
  watch_.reset();
  const RankSet before = commits_->set();
  const Come& come = come_.at(commits_->round());
  slept_ = !slept_ && Clock::now() - watch_began_ > kSlept * patience_;  // what has come was not read yet
  if (slept_ || (waited < kInCall * patience_ && waits_in_call(before.without(come.from)))) return watch_on();
  const auto proposal =
      come.somebody_trains ? commits_->leave_out(come.from, silent()) : std::optional<RoundMessage>();
  if (proposal) {
    say_who_is_out(before.without(proposal->set), proposal->round, waited);
    send(*proposal, proposal->set);
    if (proposal->set.has(group().rank())) plan_.shrink(proposal->set);
    look_at_all();
    commit_what_is_possible();
  }
  watch();
}

// They wait for others in a call of all members, or it is this member that does, perhaps in the same one.
bool RoundExchange::waits_in_call(const RankSet& ranks) const {
  if (ranks.empty()) return false;
  if (group().waits_in_call()) return true;
  for (Rank rank = 0; rank < members(); ++rank) {
    if (ranks.has(rank) && group().call_ahead(rank)) return true;
  }
  return false;
}

void RoundExchange::say_who_is_out(const RankSet& out, Iteration round, Clock::duration waited) const {
  for (Rank rank = 0; rank < members(); ++rank) {
    if (!out.has(rank)) continue;
    group().log()->warn("{} had no part in round {} for {}: the others go on without it, until it is back",
                        group().describe(rank), round,
                        to_text(std::chrono::duration_cast<std::chrono::milliseconds>(waited)));
  }
}

RankSet RoundExchange::silent() const {
  RankSet found(members());
  for (Rank rank = 0; rank < members(); ++rank) {
    if (rank != group().rank() && group().silent_for(rank) > least_patience_ / 2) found.add(rank);
  }
  return found;
}

}  // namespace stella
