#include "engine/sparse_engine.hpp"

#include <cmath>
#include <string>
#include <utility>

#include "base/text.hpp"
#include "optim/settings.hpp"
#include "stella/error.hpp"

namespace stella {

SparseEngine::SparseEngine(NetThread& net, Group& group, std::unique_ptr<SparseRule> rule,
                           std::vector<TensorSpec> tensors, std::size_t groups, const EngineOptions& options,
                           std::function<void()> while_waiting)
    : PipelinedEngine(
          net, group, std::move(rule), std::move(tensors), {options.staleness, options.staleness}, options,
          std::move(while_waiting),
          [&group](const ExchangeOptions& exchange) { return std::make_unique<Exchange>(group, exchange); }),
      rule_(static_cast<SparseRule&>(this->rule())),
      groups_(groups),
      staleness_(options.staleness) {}

void SparseEngine::step(const StepInput& input) {
  const auto step = begin_next(Level::active, input);
  const Iteration t = step->iteration;
  if (t >= staleness_) pipeline().take(t - staleness_, input.parameters, "in step()");
  if (const auto bad = step->bad_tensor()) {
    throw Error(ErrorCode::nonfinite,
                "the gradient of '" + tensors()[*bad].name + "' holds NaN or infinity at iteration " +
                    std::to_string(t) +
                    "; this member contributed nothing to it and its gradients were dropped; catch this "
                    "error to go on, or lower the learning rate or clip gradients");
  }
}

void SparseEngine::drain(Level level, std::span<float* const> parameters,
                         std::span<const GroupSettings> groups) {
  StepInput input;
  input.parameters = parameters;
  input.groups = groups;
  input.skip = true;
  const char* where = level == Level::finished ? "in finish()" : "at the end of its DataLoader's epoch";
  Iteration t = 0;
  do {
    t = begin_next(level, input)->iteration;
    if (t >= staleness_) pipeline().take(t - staleness_, parameters, where);
    pipeline().quiesce(t, where);
  } while (pipeline().least_level(t) < level);
  if (level == Level::finished) pipeline().take(t, parameters, where);
  rule_.restore_parameters(parameters);
  if (level == Level::finished) end_with_equal_weights();
}

std::shared_ptr<Step> SparseEngine::begin_next(Level level, const StepInput& input) {
  pipeline().check();
  check_input(input);
  return begin(level, input);
}

void SparseEngine::check_input(const StepInput& input) const {
  const auto refuse = [](const std::string& why) {
    throw Error(ErrorCode::invalid_argument, "step: " + why);
  };
  check_parameters(tensors(), input.parameters);
  if (!input.skip && input.gradients.size() != tensors().size()) {
    refuse("the model has " + std::to_string(tensors().size()) + " parameters, but " +
           std::to_string(input.gradients.size()) + " gradients were passed");
  }
  for (const Gradient& gradient : input.gradients) {
    if (gradient.type > GradientType::fp16)
      refuse("gradient type " + std::to_string(static_cast<unsigned>(gradient.type)) + " is unknown");
  }
  if (input.groups.size() != groups_) refuse("the number of param groups changed");
  for (const GroupSettings& group : input.groups) validate(group);
  if (!usable_samples(input.samples)) {
    refuse("samples is " + to_text(input.samples) + "; it must be 0, or lie between 1e-9 and 1e12");
  }
  if (!std::isfinite(input.gradient_scale)) refuse("the gradient scale is not finite");
}

void SparseEngine::set_density(double density) {
  EngineOptions options;
  options.density = density;
  check_options(options);
  rule_.set_density(density);
}

EngineStats SparseEngine::stats() const {
  EngineStats stats = PipelinedEngine::stats();
  stats.iteration = begun();
  stats.blocks_sent = rule_.blocks_sent();
  stats.blocks_applied = rule_.blocks_applied();
  return stats;
}

std::vector<StateArray> SparseEngine::state() {
  quiesce();
  return rule_.state();
}

bool SparseEngine::allocate_moment(const std::string& name, std::uint32_t tensor) {
  quiesce();
  return rule_.allocate_moment(name, tensor);
}

SelectorState SparseEngine::selector_state() {
  quiesce();
  return rule_.selector_state();
}

bool SparseEngine::set_selector_state(const SelectorState& state) {
  quiesce();
  return rule_.set_selector_state(state);
}

void SparseEngine::restore(std::span<float* const> parameters) {
  check_parameters(tensors(), parameters);
  quiesce();
  rule_.restore_parameters(parameters);
}

void SparseEngine::state_loaded(std::uint64_t iteration, std::span<float* const> parameters) {
  check_parameters(tensors(), parameters);
  quiesce();
  rule_.state_loaded(iteration, parameters);
  restart_after(iteration);
}

}  // namespace stella
