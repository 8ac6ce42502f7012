// rule="local" (local-first): every member's own optimizer steps at once; the members exchange, piece by
// piece, what the others have not seen of each other's weights. docs/rules.md.
#pragma once

#include <array>
#include <atomic>
#include <chrono>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/aligned.hpp"
#include "compress/encoding.hpp"
#include "engine/digest.hpp"
#include "engine/fragment_body.hpp"
#include "engine/fragments.hpp"
#include "engine/layout.hpp"
#include "engine/rule.hpp"
#include "stella/engine.hpp"

namespace stella {

// Member i has weights x_i, the trainer's parameters, and the consensus weights W. An iteration is a round
// here, and is about one fragment F:
//
//   contribute  c_i = code(x_i - W)                    what the others have not seen
//   merge       G = sum of w_j c_j over the members that contributed, their w_j divided by the sum of them
//   apply       W += G
//   publish     x_i += G - c_i                         the own part goes from its whole to its share
//
// What a member has not told is always x_i - W: there is no residual. Only rounds on disjoint fragments are
// under way at a time, so W does not change in F from copy() to apply().
class LocalRule final : public Rule {
 public:
  LocalRule(std::span<const TensorSpec> tensors, const EngineOptions& options, Rank rank,
            DescribeMember describe);

  std::size_t buckets() const override { return 1; }
  std::optional<std::uint32_t> copy(BucketId bucket, const StepInput& input) override;
  void drop(BucketId bucket, const StepInput& input) override;
  PayloadPtr contribute(BucketId bucket, const Step& step) override;
  Update merge(BucketId bucket, std::span<const PayloadPtr> payloads) override;
  void apply(BucketId bucket, Update update) override;
  void publish(BucketId bucket, Iteration t, std::span<float* const> parameters) override;
  std::uint64_t digest() const override { return digests_.newest().value; }

  FragmentSchedule& schedule() { return schedule_; }
  // Of this member's contributions from the next one on. Any thread.
  void set_coding(ValueCoding coding) { coding_ = coding; }
  ValueCoding coding() const { return coding_; }
  // What the newest round of a whole fragment carried, and the seconds that the slowest link to here needed
  // for a contribution to it, whenever that began. Nothing if that was asked for before, or none is over. Any
  // thread.
  struct Measured {
    std::size_t blocks = 0;
    ValueCoding coding = ValueCoding::int1;  // of this member's contribution
    double seconds = 0;
  };
  std::optional<Measured> newly_measured();
  // Of fragments, which this member announces with its contributions; the least of all counts. Any thread.
  void set_fragment_blocks(std::size_t blocks) { announced_blocks_ = blocks; }

  // --- Only while nothing is under way:

  std::span<float> weights() { return weights_; }
  void read_parameters(std::span<float* const> parameters);
  void write_parameters(std::span<float* const> parameters);
  // weights() and the parameters were filled; `round` is the newest one in them.
  void weights_loaded(Iteration round);
  std::vector<StateArray> state();

  std::uint64_t blocks_sent() const { return blocks_sent_; }
  std::uint64_t blocks_applied() const { return blocks_applied_; }

 private:
  // One round under way on this member, from copy() to publish().
  struct Round {
    Fragment fragment;
    bool contributed = false;
    // [fragment.blocks * kFragmentBlock], and room for more
    AlignedArray<float> values;  // x_i, then x_i - W, then G - c_i
    AlignedArray<float> merged;  // G
    bool empty = false;          // nobody contributed: G is 0
    float weight = 1;            // w_i
    bool whole = true;           // no shorter than fragments are
    ValueCoding coding = ValueCoding::int1;
    std::chrono::nanoseconds slowest{0};  // of the links to here
  };

  Round& under_way(Iteration round) { return rounds_[round % rounds_.size()]; }
  static std::span<float> part_of(AlignedArray<float>& array, const Round& round) {
    return array.span().first(round.fragment.blocks * kFragmentBlock);
  }
  std::span<float> weights_of(const Fragment& fragment);
  std::vector<ShortBlock> short_blocks_in(const Fragment& fragment) const;
  std::string place(Iteration round) const;
  template <class Visit>
  void for_each_slice_in(const Fragment& fragment, Visit visit) const;
  template <class Read>
  void naming(Rank rank, Iteration t, Read read) const;
  // Sets round.merged and round.values.
  void add_up(const std::vector<std::pair<Rank, EncodedBlocks>>& contributions, float weights, Iteration t,
              Round& round);
  void check_digests(const Update& update) const;

  const BucketLayout layout_;
  const std::vector<ShortBlock> short_blocks_;
  const Rank rank_;
  DescribeMember describe_;
  std::atomic<ValueCoding> coding_;
  std::atomic<std::size_t> announced_blocks_;
  FragmentSchedule schedule_;
  std::array<Round, FragmentSchedule::kUnderWay> rounds_;
  AlignedArray<float> weights_;  // W, [blocks * kBlock]
  DigestHistory digests_;
  std::mutex mutex_;  // guards the next one
  std::optional<Measured> measured_;
  std::atomic<std::uint64_t> blocks_sent_ = 0;
  std::atomic<std::uint64_t> blocks_applied_ = 0;
};

}  // namespace stella
