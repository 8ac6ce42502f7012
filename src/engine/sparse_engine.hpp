// The engine behind rule="sparse": a step contributes gradients, and takes the update of `staleness` steps
// ago.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "engine/pipelined_engine.hpp"
#include "engine/sparse_rule.hpp"

namespace stella {

class SparseEngine final : public PipelinedEngine {
 public:
  // `rule` holds the first weights already. net and group must outlive the engine.
  //   groups         param_groups
  //   while_waiting  see SessionOptions; may be empty
  SparseEngine(NetThread& net, Group& group, std::unique_ptr<SparseRule> rule,
               std::vector<TensorSpec> tensors, std::size_t groups, const EngineOptions& options,
               std::function<void()> while_waiting = {});

  void step(const StepInput& input) override;
  void drain(Level level, std::span<float* const> parameters, std::span<const GroupSettings> groups) override;
  void set_density(double density) override;
  std::uint64_t iteration() const override { return begun(); }
  EngineStats stats() const override;
  std::vector<StateArray> state() override;
  bool allocate_moment(const std::string& name, std::uint32_t tensor) override;
  SelectorState selector_state() override;
  bool set_selector_state(const SelectorState& state) override;
  void restore(std::span<float* const> parameters) override;
  void state_loaded(std::uint64_t iteration, std::span<float* const> parameters) override;

 private:
  std::shared_ptr<Step> begin_next(Level level, const StepInput& input);
  void check_input(const StepInput& input) const;

  SparseRule& rule_;  // the engine's own
  const std::size_t groups_;
  const Iteration staleness_;
};

}  // namespace stella
