#include "engine/local_engine.hpp"

#include <optional>
#include <utility>

#include "base/text.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr unsigned kUnderWay = FragmentSchedule::kUnderWay;
constexpr double kSmoothing = 0.2;                // weight of the newest of times
constexpr std::size_t kLeastFragment = 64 << 10;  // values: below, headers and wake-ups are what it costs

}  // namespace

LocalEngine::LocalEngine(NetThread& net, Group& group, std::unique_ptr<LocalRule> rule,
                         std::vector<TensorSpec> tensors, const EngineOptions& options,
                         std::function<void()> while_waiting)
    : PipelinedEngine(net, group, std::move(rule), std::move(tensors), {kUnderWay, /*behind=*/0}, options,
                      std::move(while_waiting)),
      rule_(static_cast<LocalRule&>(this->rule())),
      most_under_way_(rule_.schedule().total() == 1 ? 1 : kUnderWay),
      max_drift_(options.max_drift_seconds),
      choose_coding_(options.wire == "auto"),
      last_taken_(Clock::now()) {}

void LocalEngine::step(const StepInput& input) {
  pipeline().check();
  check_parameters(tensors(), input.parameters);
  const auto now = Clock::now();
  if (++steps_ > 1) {
    const double taken = std::chrono::duration<double>(now - last_step_).count();
    step_seconds_ = step_seconds_ == 0 ? taken : step_seconds_ + kSmoothing * (taken - step_seconds_);
  }
  if (alone()) return;  // its weights are everybody's
  take_what_is_over(input.parameters);
  bound_drift(input.parameters);
  choose_size();
  std::optional<std::uint32_t> bad;
  while (begun_ - taken_ < most_under_way_) {
    const auto found = begin_round(Level::active, input)->bad_tensor();
    if (!bad) bad = found;
  }
  last_step_ = Clock::now();
  if (!bad) return;
  throw Error(ErrorCode::nonfinite,
              "the parameter '" + tensors()[*bad].name + "' holds NaN or infinity after step " +
                  std::to_string(steps_) +
                  "; nothing of it was sent, and the consensus weights are whole; lower the learning rate, "
                  "clip gradients, or load the last checkpoint");
}

void LocalEngine::take_what_is_over(std::span<float* const> parameters) {
  while (taken_ < begun_ && pipeline().is_applied(taken_ + 1)) take(parameters, "in step()");
}

void LocalEngine::take(std::span<float* const> parameters, const char* where) {
  pipeline().take(taken_ + 1, parameters, where);
  ++taken_;
  last_taken_ = Clock::now();
}

// What the members learn apart is averaged well only while it is little.
void LocalEngine::bound_drift(std::span<float* const> parameters) {
  if (begun_ - taken_ < most_under_way_ || Clock::now() - last_taken_ < max_drift_) return;
  warn("no round was over for " + to_text(max_drift_.count()) +
       " s: step() waits for the other members (max_drift)");
  take(parameters, "in step()");
}

void LocalEngine::choose_size() {
  const auto measured = rule_.newly_measured();
  if (!measured) return;
  const std::size_t most = rule_.schedule().most();
  const std::size_t least = std::min(kLeastFragment / kFragmentBlock, most);
  const RoundSize size = next_size({measured->blocks, bits_of(measured->coding)},
                                   {step_seconds_, measured->seconds}, least, most);
  rule_.set_fragment_blocks(size.blocks);
  if (choose_coding_) rule_.set_coding(coding_of_bits(size.bits));
}

std::shared_ptr<Step> LocalEngine::begin_round(Level level, const StepInput& input) {
  auto step = begin(begun_ + 1, level, input);
  ++begun_;
  return step;
}

void LocalEngine::drain(Level level, std::span<float* const> parameters, std::span<const GroupSettings>) {
  pipeline().check();
  check_parameters(tensors(), parameters);
  StepInput input;
  input.parameters = parameters;
  const char* where = place_of(level);
  if (alone()) {
    rule_.read_parameters(parameters);
    rule_.weights_loaded(begun_);
    if (level == Level::finished) end_with_equal_weights();
    return;
  }
  do {
    while (taken_ < begun_) take(parameters, where);
    begin_round(level, input);
    take(parameters, where);
  } while (pipeline().least_level(begun_) < level);
  if (level != Level::finished) return;
  // From here on all members make the same rounds. What they have not told each other goes out finely, once
  // over the whole model; what that leaves is nothing that anybody could tell from rounding.
  if (rule_.coding() > ValueCoding::int8) rule_.set_coding(ValueCoding::int8);
  for (std::size_t told = 0; told < rule_.schedule().total(); told += rule_.schedule().last().blocks) {
    begin_round(level, input);
    take(parameters, where);
  }
  rule_.write_parameters(parameters);
  end_with_equal_weights();
}

void LocalEngine::set_density(double) {
  throw Error(ErrorCode::invalid_argument,
              "rule='local' has no density: what it sends follows from the link by itself");
}

EngineStats LocalEngine::stats() const {
  EngineStats stats = PipelinedEngine::stats();
  stats.iteration = steps_;
  stats.blocks_sent = rule_.blocks_sent();
  stats.blocks_applied = rule_.blocks_applied();
  return stats;
}

std::vector<StateArray> LocalEngine::state() {
  quiesce();
  return rule_.state();
}

bool LocalEngine::allocate_moment(const std::string&, std::uint32_t) { return false; }

SelectorState LocalEngine::selector_state() { return {}; }

bool LocalEngine::set_selector_state(const SelectorState&) { return false; }

void LocalEngine::state_loaded(std::uint64_t, std::span<float* const>) {
  throw Error(ErrorCode::invalid_argument, "rule='local' cannot load a checkpoint yet");
}

}  // namespace stella
