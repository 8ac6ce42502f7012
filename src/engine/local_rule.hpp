// rule="local" (local-first): every member's own optimizer steps at once; the members exchange, piece by
// piece, what the others have not seen of each other's weights. docs/rules.md.
#pragma once

#include <array>
#include <atomic>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/aligned.hpp"
#include "compress/encoding.hpp"
#include "engine/consensus.hpp"
#include "engine/fragments.hpp"
#include "engine/hidden.hpp"
#include "engine/layout.hpp"
#include "engine/rule.hpp"
#include "stella/engine.hpp"

namespace stella {

// Member i has weights x_i, the trainer's parameters, the consensus weights W, and e_i, which is hidden from
// its own model. An iteration is a round here, and is about one fragment F:
//
//   contribute  c_i = code(x_i - W + e_i)              what the others have not seen
//   merge       G = sum of w_j c_j over the members that contributed, their w_j divided by the sum of them
//   apply       W += G
//   publish     x_i += G - c_i                         the own part goes from its whole to its share
//               x_i += b, e_i -= b                   b is c_i as far as it was hidden: that is told first
//               h = pull (x_i - W), x_i -= h, e_i += h   what it shows is hidden in part
//               a share of e_i is shown again, where pull is chosen (control/pull.hpp)
//               the latter three if it told signs; else x_i += e_i, e_i = 0
//
// What a member has not told is always x_i - W + e_i. Only rounds on disjoint fragments are under way at a
// time, so W does not change in F from copy() to apply().
class LocalRule final : public Rule {
 public:
  LocalRule(std::span<const TensorSpec> tensors, const EngineOptions& options, Rank rank,
            DescribeMember describe);

  std::size_t buckets() const override { return 1; }
  bool copies_at_once() const override { return true; }  // each round under way has memory of its own
  std::optional<std::uint32_t> copy(BucketId bucket, const StepInput& input) override;
  void drop(BucketId bucket, const StepInput& input) override;
  PayloadPtr contribute(BucketId bucket, const Step& step) override;
  Update merge(BucketId bucket, const Gathered& all) override;
  void apply(BucketId bucket, Update update) override;
  void publish(BucketId bucket, Iteration t, std::span<float* const> parameters) override;
  std::uint64_t digest() const override { return consensus_->digest().value; }

  FragmentSchedule& schedule() { return consensus_->schedule(); }
  // This member's contributions hold eight bits for a value at least, where that fits a frame, whatever
  // rounds are to hold. Any thread.
  void tell_finely() { finely_ = true; }
  // What the newest round of a whole fragment held, and the seconds that the slowest link to here needed
  // for a contribution to it, whenever that began. Nothing if that was asked for before, or none is over. Any
  // thread.
  struct Measured {
    RoundSize size;
    double seconds = 0;
  };
  std::optional<Measured> newly_measured();
  // Of later rounds, which this member announces with its contributions; the least of all counts. Any thread.
  void ask_for(RoundSize size);
  // Calls back where a round has come to an end after which somebody needs to be told the weights.
  void on_newcomers(std::function<void(const std::vector<Rank>&, Digest, std::span<const float>)> tell) {
    tell_newcomers_ = std::move(tell);
  }

  // --- Only while nothing is under way:

  std::span<float> weights() { return consensus_->weights(); }
  void read_parameters(std::span<float* const> parameters);
  void write_parameters(std::span<float* const> parameters);
  // weights() and the parameters were filled; `round` is the newest one in them.
  void weights_loaded(Iteration round) {
    consensus_->weights_loaded(round);
    hidden_.begin_anew();
  }
  std::vector<StateArray> state();
  // Of the same model, to be filled by what others send.
  std::unique_ptr<Consensus> blank() const;
  // That of the others, in place of the own one, which is behind: x_i += the difference. So x_i - W and e_i
  // stay what this member learned and has not told.
  void adopt(std::unique_ptr<Consensus> theirs, std::span<float* const> parameters);

  std::uint64_t blocks_sent() const { return blocks_sent_; }
  std::uint64_t blocks_applied() const { return blocks_applied_; }

 private:
  // One round under way on this member, from copy() to publish().
  struct Round {
    Fragment fragment;
    bool contributed = false;
    // [fragment.blocks * kFragmentBlock], and room for more
    AlignedArray<float> values;  // x_i, then x_i - W + e_i, then G - c_i unless that is listed
    AlignedArray<float> mean;    // G, unless that is listed
    Consensus::Merged of_all;
    bool part = true;   // this member has one: not left out
    float weight = 1;   // w_i
    bool whole = true;  // no shorter than fragments are
    RoundSize size;
  };

  Round& under_way(Iteration round) { return rounds_[round % rounds_.size()]; }
  static std::span<float> part_of(AlignedArray<float>& array, const Round& round) {
    return array.span().first(round.fragment.blocks * kFragmentBlock);
  }
  template <class Visit>
  void for_each_slice_in(const Fragment& fragment, Visit visit) const;
  ValueCoding coding_of(const Round& round) const;
  void publish_part(const Round& round, std::size_t at, std::span<float> own);

  const BucketLayout layout_;
  const std::vector<ShortBlock> short_blocks_;
  const Rank rank_;
  DescribeMember describe_;
  const std::optional<ValueCoding> wire_;  // that the user chose
  std::unique_ptr<Consensus> consensus_;
  Hidden hidden_;  // as weights() lie
  std::array<Round, FragmentSchedule::kUnderWay> rounds_;
  std::function<void(const std::vector<Rank>&, Digest, std::span<const float>)> tell_newcomers_;
  std::atomic<bool> finely_ = false;
  std::mutex mutex_;  // guards the next two
  std::optional<Measured> measured_;
  RoundSize asked_for_;
  std::atomic<std::uint64_t> blocks_sent_ = 0;
  std::atomic<std::uint64_t> blocks_applied_ = 0;
};

}  // namespace stella
