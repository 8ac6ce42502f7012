// What the engines of both rules share: a rule, the pipeline that runs it, and the group that it talks to.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/cpu_pool.hpp"
#include "engine/pipeline.hpp"
#include "engine/rule.hpp"
#include "exchange/exchange.hpp"
#include "membership/group.hpp"
#include "net/net_thread.hpp"
#include "stella/engine.hpp"

namespace stella {

class PipelinedEngine : public Engine {
 public:
  // Ends the run for all if it was not drained to Level::finished.
  ~PipelinedEngine() override;

  void quiesce() override;
  std::uint64_t digest() override;
  EngineStats stats() const override;

 protected:
  // `rule` holds the first weights already. net and group must outlive the engine.
  //   depth          see Pipeline
  //   while_waiting  see SessionOptions; may be empty
  //   make_exchange  called on the net thread
  using MakeExchange = std::function<std::unique_ptr<Exchange>(const ExchangeOptions&)>;
  PipelinedEngine(NetThread& net, Group& group, std::unique_ptr<Rule> rule, std::vector<TensorSpec> tensors,
                  PipelineDepth depth, const EngineOptions& options, std::function<void()> while_waiting,
                  const MakeExchange& make_exchange);

  // Hands the next iteration over. Throws the failure, if there is one.
  std::shared_ptr<Step> begin(Level level, const StepInput& input);
  // The newest iteration that was handed over.
  Iteration begun() const { return begun_; }
  // Nobody waits for this member's next iteration any more: its final weights are everybody's. Throws
  // Error(mismatch) if they are not.
  void end_with_equal_weights();
  // The newest iteration is this one, and so everywhere: of other weights than those of the run so far.
  // Collective.
  void restart_after(Iteration iteration);
  // The same without telling anybody, or waiting for others.
  void go_on_after(Iteration iteration);
  // Of this member: everybody is told, and it is thrown.
  [[noreturn]] void end_run(const Error& error);
  // Every 100 ms while the trainer's thread waits; ends the run where that throws.
  void check_while_waiting();
  void warn(const std::string& sentence) const;
  // Some member waits in a collective that this one has not called.
  bool somebody_calls() const;
  bool alone() const { return group_.world_size() == 1; }
  const std::vector<TensorSpec>& tensors() const { return tensors_; }
  Pipeline& pipeline() { return *pipeline_; }
  NetThread& net() const { return net_; }
  Group& group() const { return group_; }
  Exchange& exchange() { return *exchange_; }  // on the net thread
  Rule& rule() { return *rule_; }

 private:
  void tell_others();
  void expect_everywhere(const std::string& tag, const Bytes& mine, const std::string& difference);

  NetThread& net_;
  Group& group_;
  const std::vector<TensorSpec> tensors_;
  const std::function<void()> while_waiting_;
  Iteration begun_ = 0;
  bool finished_ = false;  // nobody waits for this member's next step
  std::unique_ptr<Rule> rule_;
  CpuPool cpu_;
  std::unique_ptr<Exchange> exchange_;  // lives on the net thread
  std::unique_ptr<Pipeline> pipeline_;
};

// Throws Error(invalid_argument) that says which value, and what it may be.
void check_options(const EngineOptions& options);
// The same for a trainer's memory: one address per tensor, none null that has elements.
void check_parameters(std::span<const TensorSpec> tensors, std::span<float* const> parameters);

}  // namespace stella
