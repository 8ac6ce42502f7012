// What a member sends of a bucket and what it does with what it receives. The pipeline (pipeline.cpp) says
// when.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "compress/encoding.hpp"
#include "engine/step.hpp"
#include "exchange/exchange.hpp"
#include "stella/engine.hpp"

namespace stella {

// "member 2 (c1m0, 10.77.0.3:4242)", for errors.
using DescribeMember = std::function<std::string(Rank)>;

// What one iteration does to one bucket: the same on all members.
struct Update {
  Iteration iteration = 0;
  SparseGradient gradient;                       // the mean over all members' samples
  GroupSettings settings;                        // by which to apply it
  std::vector<std::pair<Rank, Digest>> digests;  // of whoever contributed: its weights by then
  std::vector<Rank> newcomers;                   // whom to tell the weights after it
};

// Different buckets may run in parallel. For one bucket the pipeline calls copy, perhaps drop, contribute,
// merge and apply of iteration t in this order; copy(t) after contribute(t - 1), apply(t) after apply(t - 1)
// and after publish(t - max(staleness, 1)). merge(t) may run beside, or before, merge(t - 1), and
// before that is applied: it changes only what is of iteration t alone.
class Rule {
 public:
  virtual ~Rule() = default;

  virtual std::size_t buckets() const = 0;

  // Whether copy(t) may run beside contribute(t - 1): then the trainer's own thread calls it, and waits for
  // nobody.
  virtual bool copies_at_once() const { return false; }

  // Takes this iteration's gradient out of the trainer's memory. Returns the first tensor with a non-finite
  // gradient, if any.
  virtual std::optional<std::uint32_t> copy(BucketId bucket, const StepInput& input) = 0;

  // After copy() of all buckets, one of which found such a tensor: forgets this iteration's gradient.
  virtual void drop(BucketId bucket, const StepInput& input) = 0;

  // What this member tells the others in this iteration: header and encoded blocks.
  virtual PayloadPtr contribute(BucketId bucket, const Step& step) = 0;

  // All members' contributions, added up in member order. Throws Error(protocol) or Error(mismatch) that
  // names the member.
  virtual Update merge(BucketId bucket, const Gathered& all) = 0;

  // Takes the update into the consensus weights. Throws Error(mismatch) when a member's digest differs.
  virtual void apply(BucketId bucket, Update update) = 0;

  // Takes the applied updates up to and including iteration t into the trainer's parameters, [numel] by
  // tensor.
  virtual void publish(BucketId bucket, Iteration t, std::span<float* const> parameters) = 0;

  // A digest over the consensus weights of all buckets. While nothing is under way.
  virtual std::uint64_t digest() const = 0;
};

}  // namespace stella
