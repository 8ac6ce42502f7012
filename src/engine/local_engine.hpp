// The engine behind rule="local": a step takes what is there, and never waits for the network.
#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "control/round_size.hpp"
#include "engine/listener.hpp"
#include "engine/local_rule.hpp"
#include "engine/pipelined_engine.hpp"
#include "exchange/round_exchange.hpp"

namespace stella {

class LocalEngine final : public PipelinedEngine {
 public:
  // `rule` holds the first weights already. net and group must outlive the engine.
  //   while_waiting  see SessionOptions; may be empty
  LocalEngine(NetThread& net, Group& group, std::unique_ptr<LocalRule> rule, std::vector<TensorSpec> tensors,
              const EngineOptions& options, std::function<void()> while_waiting = {});
  ~LocalEngine() override;

  // Called after the optimizer's own step: takes the rounds that are over into the parameters, and begins
  // the next ones. Waits only where no round has been over for the drift bound. A member that was left out of
  // rounds hears them instead, until it can take part again.
  void step(const StepInput& input) override;
  void drain(Level level, std::span<float* const> parameters, std::span<const GroupSettings> groups) override;
  void set_density(double density) override;
  std::uint64_t iteration() const override { return steps_; }
  std::uint64_t digest() override;
  EngineStats stats() const override;
  std::vector<StateArray> state() override;
  void restore(std::span<float* const> parameters) override;
  bool allocate_moment(const std::string& name, std::uint32_t tensor) override;
  SelectorState selector_state() override;
  bool set_selector_state(const SelectorState& state) override;
  void state_loaded(std::uint64_t iteration, std::span<float* const> parameters) override;

 private:
  using Clock = std::chrono::steady_clock;

  LocalEngine(NetThread& net, Group& group, std::unique_ptr<LocalRule> rule, std::vector<TensorSpec> tensors,
              const EngineOptions& options, std::function<void()> while_waiting,
              const std::shared_ptr<Listener>& listener);
  void take(std::span<float* const> parameters, const char* where);
  void take_what_is_over(std::span<float* const> parameters);
  void note_step_time();
  void bound_drift(std::span<float* const> parameters);
  void choose_size();
  RoundExchange& rounds() { return static_cast<RoundExchange&>(exchange()); }
  bool takes_part(std::span<float* const> parameters, const char* where);
  void listen_anew();
  bool come_back(Iteration heard, std::span<float* const> parameters);
  void expect_no_deadlock(const char* where);
  void wait_until_back(std::span<float* const> parameters, const char* where);

  LocalRule& rule_;  // the engine's own
  const std::shared_ptr<Listener> listener_;
  const Iteration most_under_way_;
  const std::chrono::duration<double> max_drift_;
  const std::chrono::duration<double> step_timeout_;
  const bool choose_coding_;
  const ValueCoding given_coding_;                  // where the engine does not choose it
  std::chrono::milliseconds usual_peer_timeout_{};  // of the group
  Iteration steps_ = 0;
  Iteration taken_ = 0;                         // rounds, into the parameters
  double weight_ = 0;                           // of what this member learns, smoothed; 0 before it said so
  std::optional<Clock::time_point> last_step_;  // its end; nothing where it was not followed by another one
  Clock::time_point last_taken_;
  double step_seconds_ = 0;  // smoothed; 0 before the second step
  bool said_ready_ = false;  // since it listens
  RoundSizes sizes_;
};

}  // namespace stella
