#include "engine/listener.hpp"

#include <algorithm>
#include <cstring>
#include <string>
#include <utility>

#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::size_t kPart = std::size_t{1} << 18;         // values
constexpr std::size_t kMostWaiting = std::size_t{1} << 30;  // bytes of rounds that are not heard yet

std::size_t bytes_of(const Gathered& round) {
  std::size_t bytes = 0;
  for (const PayloadPtr& payload : round.payloads) bytes += payload ? payload->bytes().size() : 0;
  return bytes;
}

}  // namespace

std::vector<std::shared_ptr<const Bytes>> write_weights(const Digest& digest,
                                                        std::span<const float> weights) {
  std::vector<std::shared_ptr<const Bytes>> parts;
  for (std::size_t first = 0; first < weights.size(); first += kPart) {
    const auto values = weights.subspan(first, std::min(kPart, weights.size() - first));
    Bytes part;
    part.reserve(32 + values.size_bytes());
    ByteWriter writer(part);
    writer.put(digest.iteration);
    writer.put(digest.value);
    writer.put<std::uint64_t>(first);
    writer.put_bytes(std::as_bytes(values));
    parts.push_back(std::make_shared<const Bytes>(std::move(part)));
  }
  return parts;
}

void Listener::left_out() {
  std::lock_guard lock(mutex_);
  out_ = true;
  lost_ = true;  // it has missed something, if it listened
  come_.notify_all();
}

void Listener::listens(Iteration from) {
  std::lock_guard lock(mutex_);
  from_ = from;
  note_something();
}

void Listener::heard(Gathered round) {
  std::lock_guard lock(mutex_);
  if (lost_) return;
  waiting_bytes_ += bytes_of(round);
  if (waiting_bytes_ > kMostWaiting) {  // its trainer does not hear them
    lost_ = true;
    return rounds_.clear();
  }
  rounds_.push_back(std::move(round));
  if (whole()) something_came_ = Clock::now();  // or it may wait for weights that never come
  come_.notify_all();
}

void Listener::weights(std::span<const std::byte> part) {
  ByteReader reader(part, "a part of weights");
  const auto round = reader.get<Iteration>();
  const auto digest = reader.get<std::uint64_t>();
  const auto first = reader.get<std::uint64_t>();
  std::lock_guard lock(mutex_);
  if (!consensus_ || lost_ || whole() || (from_ && round + 1 != *from_)) return;
  const std::span<float> all = consensus_->weights();
  if (first == 0) {
    filled_ = 0;
    told_ = {round, digest};
  }
  if (!from_ && told_ != Digest{round, digest}) return;
  const std::size_t bytes = reader.remaining();
  if (first != filled_ || told_ != Digest{round, digest} || bytes == 0 || bytes % sizeof(float) != 0 ||
      bytes / sizeof(float) > all.size() - filled_) {
    throw Error(ErrorCode::protocol, "a part of weights: " + std::to_string(bytes) + " bytes from value " +
                                         std::to_string(first) + " on, where value " +
                                         std::to_string(filled_) + " of " + std::to_string(all.size()) +
                                         " is the next one");
  }
  std::memcpy(all.data() + filled_, reader.rest().data(), bytes);
  filled_ += bytes / sizeof(float);
  note_something();
}

bool Listener::whole() const {
  return consensus_ && !lost_ && from_ && told_.iteration + 1 == *from_ &&
         filled_ == consensus_->weights().size();
}

void Listener::note_something() {
  something_came_ = Clock::now();
  come_.notify_all();
}

bool Listener::is_out() const {
  std::lock_guard lock(mutex_);
  return out_;
}

void Listener::begin(std::unique_ptr<Consensus> blank) {
  std::lock_guard lock(mutex_);
  consensus_ = std::move(blank);
  lost_ = false;
  from_.reset();
  told_ = {};
  filled_ = 0;
  rounds_.clear();
  waiting_bytes_ = 0;
  rounds_heard_ = sizes_heard_ = 0;
  something_came_ = Clock::now();
}

bool Listener::has_begun() const {
  std::lock_guard lock(mutex_);
  return consensus_ && !lost_;
}

void Listener::back() {
  std::lock_guard lock(mutex_);
  out_ = false;
  rounds_.clear();
}

void Listener::hear() {
  for (;;) {
    Gathered round;
    {
      std::lock_guard lock(mutex_);
      if (!whole() || rounds_.empty()) return;
      round = std::move(rounds_.front());
      rounds_.pop_front();
      waiting_bytes_ -= bytes_of(round);
    }
    if (rounds_heard_ == 0) {
      consensus_->weights_loaded(told_.iteration);
      if (consensus_->digest() != told_) {
        throw Error(ErrorCode::mismatch,
                    "the weights that were received after " + place_of_round(told_.iteration) +
                        " are not those that were sent; report this: it should not happen");
      }
    }
    hear(round);
  }
}

void Listener::hear(const Gathered& round) {
  ++rounds_heard_;
  if (round.iteration != consensus_->digest().iteration + 1) {
    throw Error(ErrorCode::protocol, place_of_round(round.iteration) + " comes after " +
                                         place_of_round(consensus_->digest().iteration));
  }
  FragmentSchedule& schedule = consensus_->schedule();
  auto fragment = consensus_->fragment_of(round);
  if (fragment) {
    schedule.follow(round.iteration, *fragment);
    ++sizes_heard_;
  } else {
    fragment = schedule.next();  // nobody contributed; but all went on by one fragment
  }
  std::vector<std::pair<Rank, Digest>> digests;
  for (Rank rank = 0; rank < round.payloads.size(); ++rank) {
    if (round.payloads[rank]) digests.emplace_back(rank, round.payloads[rank]->header().digest);
  }
  consensus_->check_digests(digests, round.iteration, /*strict=*/false);
  mean_.resize(fragment->blocks * kFragmentBlock);
  const auto merged = consensus_->merge(round, *fragment, mean_, nullptr);
  consensus_->apply(round.iteration, *fragment, merged, mean_);
}

std::optional<Iteration> Listener::newest() const {
  std::lock_guard lock(mutex_);
  if (!whole() || rounds_heard_ == 0) return std::nullopt;
  return consensus_->digest().iteration;
}

bool Listener::is_ready() const {
  std::lock_guard lock(mutex_);
  return whole() && rounds_.empty() && sizes_heard_ > FragmentSchedule::kNotice;
}

std::unique_ptr<Consensus> Listener::take_consensus() {
  std::lock_guard lock(mutex_);
  return std::move(consensus_);
}

std::chrono::nanoseconds Listener::silence() const {
  std::lock_guard lock(mutex_);
  return Clock::now() - something_came_;
}

void Listener::wait_for(std::chrono::milliseconds time) const {
  std::unique_lock lock(mutex_);
  come_.wait_for(lock, time);
}

}  // namespace stella
