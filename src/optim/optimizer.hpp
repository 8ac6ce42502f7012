// The optimizers that step only what was sent. StellaTrain (SIGCOMM 2024) §3.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/aligned.hpp"
#include "compress/sparse_gradient.hpp"
#include "stella/optimizer_settings.hpp"

namespace stella {

struct StateTensor {
  std::string name;         // torch's: "momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq"
  std::span<float> values;  // [blocks * kBlock], live: what is written here is what the next step reads
};

// One bucket's optimizer. A step costs what its gradient holds: weights, moments and counters of other blocks
// keep their bits. All members that make the same calls hold the same bits, whatever their CPU. With every
// block in every gradient it computes what torch's optimizer of that name computes (to fp32 rounding).
//
// Memory is taken for what the settings need: a momentum buffer once momentum is not 0, the largest second
// moments once amsgrad is on. Such an array, once there, stays.
//
// One thread at a time; different buckets have different optimizers.
class SparseOptimizer {
 public:
  // For a bucket of `total_blocks`, every block at step 0.
  explicit SparseOptimizer(std::size_t total_blocks) : steps_(total_blocks) {}
  virtual ~SparseOptimizer() = default;
  SparseOptimizer(const SparseOptimizer&) = delete;
  SparseOptimizer& operator=(const SparseOptimizer&) = delete;

  // Whether settings of that kind are for this optimizer: adam and adamw are one.
  virtual bool takes(OptimizerKind kind) const = 0;

  // Steps the blocks of `gradient`.
  //   gradient  ascending blocks below total_blocks, with their mean gradient
  //   settings  of this step (schedulers change them), of a kind that it takes. Throws
  //             Error(invalid_argument) if they make no sense (optim/settings.hpp).
  //   weights   [total_blocks * kBlock]
  virtual void step(const SparseGradient& gradient, const GroupSettings& settings,
                    std::span<float> weights) = 0;

  // The state that exists now, to be saved, restored and moved between members.
  virtual std::vector<StateTensor> state() = 0;
  // Takes the memory of a tensor of that name, all 0, if it does not exist yet: before it is restored.
  // Returns false if this optimizer has none of that name under any settings.
  virtual bool allocate(std::string_view name) = 0;

  // For each block the steps in its state: Adam counts every step, SGD those with momentum. It belongs to the
  // state: save and restore both. To be written until the next step. A count that has come to 2^32 - 1 stays
  // there.
  std::span<std::uint32_t> steps() {
    most_is_known_ = false;
    return steps_;
  }

 protected:
  std::size_t total_blocks() const { return steps_.size(); }
  // For the kernels, which count.
  std::uint32_t* counts() { return steps_.data(); }
  // One more step of every block; returns their count. Where they have not made equally many, nothing, and
  // nothing is counted.
  std::optional<std::uint32_t> count_all();
  // No block's count is more than that after one more step, which is assumed to be made.
  std::uint32_t most_after_a_step();

 private:
  AlignedArray<std::uint32_t> steps_;
  std::uint32_t most_ = 0;  // no count is more, if that is known
  bool most_is_known_ = true;
};

// The optimizer of settings.kind, with the state that `settings` need. Throws Error(invalid_argument) if they
// make no sense.
std::unique_ptr<SparseOptimizer> make_optimizer(const GroupSettings& settings, std::size_t total_blocks);

}  // namespace stella
