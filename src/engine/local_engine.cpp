#include "engine/local_engine.hpp"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/text.hpp"
#include "exchange/payload.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr unsigned kUnderWay = FragmentSchedule::kUnderWay;
constexpr double kSmoothing = 0.2;                // weight of the newest of times
constexpr double kLongestOfAverage = 4;           // as long as the average may one step seem
constexpr std::size_t kLeastFragment = 64 << 10;  // values: below, headers and wake-ups are what it costs
constexpr std::size_t kMostInACycle = 64;         // fragments: a cycle must not take for ever

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
  if (!usable_samples(input.samples)) {
    throw Error(ErrorCode::invalid_argument, "step: the weight is " + to_text(input.samples) +
                                                 "; it must be 0, or lie between 1e-9 and 1e12");
  }
  weight_ = input.samples;
  ++steps_;
  note_step_time();
  if (alone()) return;  // its weights are everybody's
  take_what_is_over(input.parameters);
  bound_drift(input.parameters);
  choose_size();
  std::optional<std::uint32_t> bad;
  while (begun() - taken_ < most_under_way_) {
    const auto found = begin(Level::active, input)->bad_tensor();
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

// Between two steps, smoothed; pauses, for an evaluation say, count little or not at all.
void LocalEngine::note_step_time() {
  if (!last_step_) return;
  double taken = std::chrono::duration<double>(Clock::now() - *last_step_).count();
  if (step_seconds_ == 0) step_seconds_ = taken;
  taken = std::min(taken, kLongestOfAverage * step_seconds_);
  step_seconds_ += kSmoothing * (taken - step_seconds_);
}

void LocalEngine::take_what_is_over(std::span<float* const> parameters) {
  while (taken_ < begun() && pipeline().is_applied(taken_ + 1)) take(parameters, "in step()");
}

void LocalEngine::take(std::span<float* const> parameters, const char* where) {
  pipeline().take(taken_ + 1, parameters, where);
  ++taken_;
  last_taken_ = Clock::now();
}

// What the members learn apart is averaged well only while it is little. But who waits in another call
// already waits for this member, which must come to that call.
void LocalEngine::bound_drift(std::span<float* const> parameters) {
  if (begun() - taken_ < most_under_way_ || Clock::now() - last_taken_ < max_drift_ || somebody_calls())
    return;
  warn("no round was over for " + to_text(max_drift_.count()) +
       " s: step() waits for the other members (max_drift)");
  if (pipeline().wait_unless(taken_ + 1, [this] { return somebody_calls(); })) take(parameters, "in step()");
}

void LocalEngine::choose_size() {
  const auto measured = rule_.newly_measured();
  if (!measured) return;
  const std::size_t most = rule_.schedule().most();
  const std::size_t total = rule_.schedule().total();
  const std::size_t least = std::min(std::max(kLeastFragment / kFragmentBlock, total / kMostInACycle), most);
  const unsigned bits = choose_coding_ ? bits_of(measured->coding) : 1;  // given: only fragments may change
  const RoundSize size =
      next_size({measured->blocks, bits}, {step_seconds_, kUnderWay * measured->seconds}, least, most);
  rule_.set_fragment_blocks(size.blocks);
  if (choose_coding_) rule_.set_coding(coding_of_bits(size.bits));
}

void LocalEngine::drain(Level level, std::span<float* const> parameters, std::span<const GroupSettings>) {
  pipeline().check();
  check_parameters(tensors(), parameters);
  StepInput input;
  input.parameters = parameters;
  input.samples = weight_;
  last_step_.reset();  // what follows is no step
  const char* where = place_of(level);
  if (alone()) {
    rule_.read_parameters(parameters);
    rule_.weights_loaded(begun());
    if (level == Level::finished) end_with_equal_weights();
    return;
  }
  do {
    while (taken_ < begun()) take(parameters, where);
    begin(level, input);
    take(parameters, where);
  } while (pipeline().least_level(begun()) < level);
  if (level != Level::finished) return;
  // From here on all members make the same rounds. What they have not told each other goes out finely, once
  // over the whole model; what that leaves is nothing that anybody could tell from rounding.
  if (rule_.coding() > ValueCoding::int8) rule_.set_coding(ValueCoding::int8);
  for (std::size_t told = 0; told < rule_.schedule().total(); told += rule_.schedule().last().blocks) {
    begin(level, input);
    take(parameters, where);
  }
  rule_.write_parameters(parameters);
  end_with_equal_weights();
}

// Of what this member has taken part in: others may be rounds ahead, but for where all have drained.
std::uint64_t LocalEngine::digest() {
  pipeline().check();
  return rule_.digest();
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
