// The engine behind stella/engine.hpp: a rule, the pipeline that runs it, and the group that it talks to.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/cpu_pool.hpp"
#include "engine/pipeline.hpp"
#include "engine/sparse_rule.hpp"
#include "exchange/exchange.hpp"
#include "membership/group.hpp"
#include "net/net_thread.hpp"
#include "stella/engine.hpp"

namespace stella {

class PipelinedEngine final : public Engine {
 public:
  // `rule` holds the first weights already. net and group must outlive the engine.
  //   while_waiting  see SessionOptions; may be empty
  PipelinedEngine(NetThread& net, Group& group, std::unique_ptr<SparseRule> rule,
                  std::vector<TensorSpec> tensors, std::size_t groups, const EngineOptions& options,
                  std::function<void()> while_waiting = {});
  // Ends the run for all if it was not drained to Level::finished.
  ~PipelinedEngine() override;

  void step(const StepInput& input) override;
  void drain(Level level, std::span<float* const> parameters, std::span<const GroupSettings> groups) override;
  void quiesce() override;
  void set_density(double density) override;
  std::uint64_t iteration() const override { return iteration_; }
  std::uint64_t digest() override;
  EngineStats stats() const override;
  std::vector<StateArray> state() override;
  bool allocate_moment(const std::string& name, std::uint32_t tensor) override;
  SelectorState selector_state() override;
  bool set_selector_state(const SelectorState& state) override;
  void state_loaded(std::uint64_t iteration, std::span<float* const> parameters) override;

 private:
  std::shared_ptr<Step> begin(Level level, const StepInput& input);
  void check_input(const StepInput& input) const;
  void tell_others();
  void expect_everywhere(const std::string& tag, const Bytes& mine, const std::string& difference);

  NetThread& net_;
  Group& group_;
  const std::vector<TensorSpec> tensors_;
  const std::size_t groups_;
  const Iteration staleness_;
  const std::function<void()> while_waiting_;
  Iteration iteration_ = 0;
  bool finished_ = false;  // nobody waits for this member's next step
  std::unique_ptr<SparseRule> rule_;
  CpuPool cpu_;
  std::unique_ptr<Exchange> exchange_;  // lives on the net thread
  std::unique_ptr<Pipeline> pipeline_;
};

// Throws Error(invalid_argument) that says which value, and what it may be.
void check_options(const EngineOptions& options);
// The same for a trainer's memory: one address per tensor, none null that has elements.
void check_parameters(std::span<const TensorSpec> tensors, std::span<float* const> parameters);

}  // namespace stella
