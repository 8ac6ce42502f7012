#include "exchange/exchange.hpp"

#include <algorithm>
#include <asio/this_coro.hpp>
#include <string>
#include <utility>

#include "base/text.hpp"
#include "net/deadline.hpp"
#include "net/reminder.hpp"

namespace stella {

Exchange::Exchange(Group& group, ExchangeOptions options)
    : group_(group),
      options_(options),
      gathered_(options.buckets, 0),
      noted_finished_(group.world_size(), false) {
  group_.on_payload(
      [this](Rank from, Bytes message, auto taken) { receive(from, std::move(message), taken); });
  group_.on_left([this](Rank rank) { member_left(rank); });
  group_.on_call([this] { end_deadlock(); });
  began(0);
}

Exchange::~Exchange() {
  group_.on_payload([](Rank, Bytes, auto) {});
  group_.on_left([](Rank) {});
  group_.on_call([] {});
}

RankSet Exchange::recipients(Iteration) { return RankSet::all(members()); }

RankSet Exchange::needed(Iteration, const Round&) const { return RankSet::all(members()); }

bool Exchange::wanted(Rank from, const Payload& payload) {
  const PayloadHeader& header = payload.header();
  const Iteration newest = gathered_[header.bucket];
  if (header.iteration <= newest || header.iteration > newest + options_.window) {
    throw refusal(from, header,
                  "outside of the window from " + std::to_string(newest + 1) + " to " +
                      std::to_string(newest + options_.window));
  }
  return true;
}

void Exchange::look_at(Key key) {
  const auto looked_at = round(key);
  if (!missing(key, *looked_at).empty()) return;
  note_finished(*looked_at);
  complete(key, *looked_at);
}

RankSet Exchange::missing(Key key, const Round& round) const {
  RankSet missing = needed(key.first, round);
  for (Rank rank = 0; rank < members(); ++rank) {
    if (round.payloads[rank]) missing.remove(rank);
  }
  return missing;
}

void Exchange::complete(Key key, Round& round) {
  if (!round.of) round.of = needed(key.first, round);
  round.complete.set();
  forget_gathered(key.second);
}

Error Exchange::refusal(Rank from, const PayloadHeader& header, const std::string& why) const {
  return Error(ErrorCode::protocol, group_.describe(from) + " sent a payload for iteration " +
                                        std::to_string(header.iteration) + ", bucket " +
                                        std::to_string(header.bucket) + ", " + why);
}

asio::awaitable<Gathered> Exchange::all_gather(PayloadPtr mine) {
  if (failure_) throw *failure_;
  if (group_.failure() != nullptr) throw *group_.failure();
  const Key key{mine->header().iteration, mine->header().bucket};
  auto gathering = round(key);
  const std::shared_ptr<const Bytes> message(mine, &mine->bytes());
  const RankSet to = recipients(key.first);
  for (Rank rank = 0; rank < members(); ++rank) {
    if (rank != group_.rank() && to.has(rank)) group_.send_payload(rank, message, {key.first, key.second});
  }
  put(group_.rank(), std::move(mine));
  for (Rank rank = 0; rank < group_.world_size(); ++rank) {
    if (group_.has_left(rank)) member_left(rank);
  }
  end_deadlock();

  // Not one statement: GCC 12 destroys a temporary twice if the expression that made it suspends.
  const auto executor = co_await asio::this_coro::executor;
  const auto began = std::chrono::steady_clock::now();
  const Deadline deadline(executor, began + options_.timeout,
                          [this, key, gathering] { give_up(key, *gathering); });
  const auto patience = std::max(options_.hint_after, 2 * longest_);
  const Reminder reminder(executor, patience, [this, key](auto waited) { hint(key, waited); });
  co_await gathering->complete.wait();
  longest_ = std::max(longest_, std::chrono::duration_cast<std::chrono::milliseconds>(
                                    std::chrono::steady_clock::now() - began));
  co_return result(key, *gathering);
}

Gathered Exchange::result(Key key, const Round& round) const {
  Gathered gathered{key.first, round.payloads, round.newcomers};
  for (Rank rank = 0; rank < members(); ++rank) {
    if (!round.of->has(rank)) gathered.payloads[rank] = nullptr;
  }
  return gathered;
}

void Exchange::began(Iteration iteration) { group_.set_begun(iteration); }

void Exchange::trainer_waits_for(Iteration iteration, std::string where) {
  awaited_ = iteration;
  awaited_where_ = std::move(where);
  end_deadlock();
}

// What a member has begun by the time of a call, it contributes to; to what comes later only after that call.
void Exchange::end_deadlock() {
  for (Rank rank = 0; rank < group_.world_size(); ++rank) {
    const auto theirs = group_.call_ahead(rank);
    if (!theirs) continue;
    for (auto& [key, waiting] : rounds_) {
      if (key.first > awaited_) break;
      const auto& payloads = waiting->payloads;
      if (key.first <= theirs->begun || !payloads[group_.rank()] || !missing(key, *waiting).has(rank))
        continue;
      waiting->complete.fail(std::make_exception_ptr(deadlock(key.first, rank, *theirs)));
      return;
    }
  }
}

Error Exchange::deadlock(Iteration iteration, Rank rank, const CallAhead& theirs) const {
  return Error(ErrorCode::mismatch,
               group_.describe(rank) + " waits in " + theirs.call + ", after iteration " +
                   std::to_string(theirs.begun) + ", for " + group_.describe(group_.rank()) +
                   ", which waits " + awaited_where_ + " for its part of iteration " +
                   std::to_string(iteration) +
                   ": all members must make the same calls (step, consensus, save, mean, finish) in the same "
                   "order");
}

void Exchange::fail(const Error& error) {
  if (failure_) return;
  failure_ = std::make_unique<Error>(error);
  for (auto& [key, waiting] : rounds_) waiting->complete.fail(std::make_exception_ptr(error));
}

void Exchange::restart_after(Iteration iteration) {
  rounds_.clear();
  awaited_ = iteration;
  set_gathered(iteration);
}

void Exchange::receive(Rank from, Bytes message, std::chrono::nanoseconds taken) {
  const auto payload = parse(from, std::move(message), taken);
  const PayloadHeader& header = payload->header();
  if (header.bucket >= options_.buckets)
    throw refusal(from, header, "but there are only " + std::to_string(options_.buckets) + " buckets");
  if (!wanted(from, *payload)) return;
  if (round({header.iteration, header.bucket})->payloads[from]) throw refusal(from, header, "a second time");
  put(from, payload);
}

PayloadPtr Exchange::parse(Rank from, Bytes message, std::chrono::nanoseconds taken) const {
  try {
    return std::make_shared<const Payload>(std::move(message), taken);
  } catch (const Error& error) {
    throw Error(error.code(), group_.describe(from) + " sent a broken " + error.what());
  }
}

void Exchange::member_left(Rank rank) {
  for (auto& [key, waiting] : rounds_) {
    const bool ours = waiting->payloads[group_.rank()] != nullptr;
    if (!ours || !missing(key, *waiting).has(rank)) continue;
    waiting->complete.fail(std::make_exception_ptr(
        Error(ErrorCode::peer_lost, group_.describe(rank) + " has left, but iteration " +
                                        std::to_string(key.first) +
                                        " needs it: every member must call finish() before it ends")));
  }
}

std::shared_ptr<Exchange::Round> Exchange::round(Key key) {
  auto& found = rounds_[key];
  if (!found) found = std::make_shared<Round>(group_.world_size());
  return found;
}

void Exchange::put(Rank from, PayloadPtr payload) {
  const Key key{payload->header().iteration, payload->header().bucket};
  round(key)->payloads[from] = std::move(payload);
  look_at(key);
}

// A loop that ends too early on one member looks like success.
void Exchange::note_finished(const Round& complete) {
  if (complete.payloads[group_.rank()]->header().level != Level::active) return;
  for (Rank rank = 0; rank < complete.payloads.size(); ++rank) {
    const PayloadHeader& theirs = complete.payloads[rank]->header();
    if (theirs.level != Level::finished || noted_finished_[rank]) continue;
    noted_finished_[rank] = true;
    group_.log()->warn(
        "{} called finish() after iteration {}, which is not the last one here: from then on this run goes "
        "on "
        "without it; if it was to make as many steps as this one, it left some out",
        group_.describe(rank), theirs.iteration - 1);
  }
}

// In order of iterations: a member's contribution may overtake its previous one on the way to the wire, and
// then the round of the previous one, which is still awaited, is the later one to be complete.
void Exchange::forget_gathered(BucketId bucket) {
  Iteration& newest = gathered_[bucket];
  const auto is_complete = [&](const auto& found) {
    return found != rounds_.end() && found->second->of && missing(found->first, *found->second).empty();
  };
  for (auto next = rounds_.find({newest + 1, bucket}); is_complete(next);
       next = rounds_.find({newest + 1, bucket})) {
    rounds_.erase(next);
    ++newest;
  }
}

// Who has not contributed yet, and what it does instead, if that is known.
std::string Exchange::name_awaited(Key key, const Round& waiting) const {
  std::string all;
  const RankSet who = awaited(key, waiting);
  for (Rank rank = 0; rank < members(); ++rank) {
    if (!who.has(rank)) continue;
    all += (all.empty() ? "" : ", ") + group_.describe(rank);
    if (const auto call = group_.call_ahead(rank))
      all += " (which waits in " + call->call + ", a call that " + group_.describe(group_.rank()) +
             " has not made)";
  }
  return all;
}

// Of the first all-gather only that is not complete: what the others wait for is the same.
void Exchange::hint(Key key, std::chrono::milliseconds waited) const {
  const auto first = std::ranges::find_if(rounds_, [this](const auto& entry) {
    return entry.second->payloads[group_.rank()] && !awaited(entry.first, *entry.second).empty();
  });
  if (first == rounds_.end() || first->first != key) return;
  group_.log()->warn("after {} {} {} still waits for {}", to_text(waited), options_.noun, key.first,
                     name_awaited(key, *first->second));
}

void Exchange::give_up(Key key, Round& waiting) {
  const auto waited = to_text(std::chrono::duration_cast<std::chrono::milliseconds>(options_.timeout));
  waiting.complete.fail(std::make_exception_ptr(
      Error(ErrorCode::timeout,
            name_awaited(key, waiting) +
                (missing(key, waiting).empty() ? " let the others wait in " : " contributed nothing to ") +
                options_.noun + " " + std::to_string(key.first) + " (bucket " + std::to_string(key.second) +
                ") for " + waited +
                " although connected; if its training is only slow, raise STELLA_STEP_TIMEOUT")));
}

}  // namespace stella
