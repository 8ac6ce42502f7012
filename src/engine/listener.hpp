// How a member that was left out of rounds comes back: it hears what the others do, until it knows their
// consensus weights.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "engine/consensus.hpp"
#include "exchange/exchange.hpp"

namespace stella {

// What a member tells another of its weights after a round, in parts. Format: docs/wire.md, "Weights".
//   weights  [blocks * kFragmentBlock]
std::vector<std::shared_ptr<const Bytes>> write_weights(const Digest& digest, std::span<const float> weights);

// Hears the weights as they are after some round, and all rounds after that one.
class Listener {
 public:
  // --- The net thread: see RoundExchange::Handlers.
  void left_out();
  void listens(Iteration from);
  void heard(Gathered round);
  // Parts of what was sent at another time are of no use. Throws Error(protocol) for bytes that are no part
  // of weights, or not the next one.
  void weights(std::span<const std::byte> part);

  // --- The trainer's thread:
  bool is_out() const;
  // Listens from the beginning. `blank` is the consensus to fill.
  void begin(std::unique_ptr<Consensus> blank);
  // It listens: begun, and not left out once more since then.
  bool has_begun() const;
  // Of the net thread: this member takes part again. What it heard is still there for take_consensus().
  void back();
  // Takes in what has come. Throws Error(protocol), Error(mismatch) or Error(nonfinite).
  void hear();
  // The newest round in the weights; nothing before they are whole.
  std::optional<Iteration> newest() const;
  // It has heard so much that it could compute what the next round is about, and nothing waits to be heard.
  bool is_ready() const;
  std::unique_ptr<Consensus> take_consensus();
  // Since it began, or came nearer to the newest round.
  std::chrono::nanoseconds silence() const;
  // For at most that time, or until something comes.
  void wait_for(std::chrono::milliseconds time) const;

 private:
  using Clock = std::chrono::steady_clock;

  void hear(const Gathered& round);
  bool whole() const;
  void note_something();

  // Of the trainer's thread:
  std::uint64_t rounds_heard_ = 0;
  std::uint64_t sizes_heard_ = 0;  // rounds that said what they were about
  std::vector<float> mean_;

  mutable std::mutex mutex_;  // guards what follows
  mutable std::condition_variable come_;
  bool out_ = false;
  bool lost_ = false;  // left out once more while it listened; the trainer's thread drops what it has
  std::unique_ptr<Consensus> consensus_;  // while it listens; of the trainer's thread once weights are whole
  std::optional<Iteration> from_;         // the first round to be heard, once that is known
  Digest told_;                           // of the weights that come
  std::size_t filled_ = 0;                // values
  std::deque<Gathered> rounds_;           // to be heard
  std::size_t waiting_bytes_ = 0;         // in them
  Clock::time_point something_came_;
};

}  // namespace stella
