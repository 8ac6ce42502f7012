// rule="sparse": StellaTrain (SIGCOMM 2024) §3.1-3.3. Gradients go into a residual, the largest blocks leave,
// a sparse optimizer applies the merge.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "compress/encoding.hpp"
#include "engine/layout.hpp"
#include "engine/rule.hpp"
#include "stella/engine.hpp"

namespace stella {

struct SparseBucket;

class SparseRule final : public Rule {
 public:
  //   names    of the tensors, for errors
  //   rank     of this member; seeds what is random in its choices
  SparseRule(std::vector<BucketLayout> layouts, std::vector<std::string> names,
             std::span<const GroupSettings> groups, const EngineOptions& options, Rank rank,
             DescribeMember describe);
  ~SparseRule() override;

  std::size_t buckets() const override { return buckets_.size(); }
  std::optional<std::uint32_t> copy(BucketId bucket, const StepInput& input) override;
  void drop(BucketId bucket, const StepInput& input) override;
  PayloadPtr contribute(BucketId bucket, const Step& step) override;
  Update merge(BucketId bucket, const Gathered& all) override;
  void apply(BucketId bucket, Update update) override;
  void publish(BucketId bucket, Iteration t, std::span<float* const> parameters) override;
  std::uint64_t digest() const override;

  // Share of the parameters that this member sends, from its next contribution on. Any thread.
  void set_density(double density) { density_ = density; }

  // --- Only while nothing is under way:

  // The consensus weights of a bucket. After a change from outside: state_loaded().
  std::span<float> weights(BucketId bucket);
  // Parameters -> consensus weights, and back, but for what publish() is still to write.
  void read_parameters(std::span<float* const> parameters);
  void restore_parameters(std::span<float* const> parameters);

  std::vector<StateArray> state();
  bool allocate_moment(const std::string& name, std::uint32_t tensor);
  SelectorState selector_state() const;
  bool set_selector_state(const SelectorState& state);
  // The arrays of state() were filled; `iteration` is the newest in them.
  void state_loaded(Iteration iteration, std::span<float* const> parameters);

  std::uint64_t blocks_sent() const { return blocks_sent_; }
  std::uint64_t blocks_applied() const { return blocks_applied_; }

 private:
  template <class T>
  std::size_t accumulate(SparseBucket& bucket, const Slice& slice, const T* gradient, float weight,
                         std::size_t numel);
  std::vector<BlockId> choose(SparseBucket& bucket);
  std::vector<BlockId> present_blocks(const SparseBucket& bucket, std::span<const float> scores) const;
  template <class Read>
  void naming(Rank rank, const PayloadHeader& header, Read read) const;
  void check_digests(const SparseBucket& bucket, BucketId id, const Update& update) const;
  void check_full_digest(const SparseBucket& bucket, BucketId id) const;
  const std::string& tensor_of(const SparseBucket& bucket, BlockId block) const;

  std::vector<std::string> names_;
  std::string selector_;
  ValueCoding coding_;
  std::atomic<double> density_;
  DescribeMember describe_;
  std::vector<std::unique_ptr<SparseBucket>> buckets_;
  std::atomic<std::uint64_t> blocks_sent_ = 0;
  std::atomic<std::uint64_t> blocks_applied_ = 0;
};

}  // namespace stella
