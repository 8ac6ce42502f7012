#include "engine/local_engine.hpp"

#include <algorithm>
#include <asio/post.hpp>
#include <iterator>
#include <optional>
#include <utility>

#include "base/text.hpp"
#include "exchange/payload.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr unsigned kUnderWay = FragmentSchedule::kUnderWay;
// Sizes, and who contributes, are announced equally early.
static_assert(FragmentSchedule::kNotice == kRoundNotice);
constexpr double kSmoothing = 0.2;                // weight of the newest of times
constexpr double kLongestOfAverage = 4;           // as long as the average may one step seem
constexpr std::size_t kLeastFragment = 64 << 10;  // values: below, headers and wake-ups are what it costs
constexpr std::size_t kMostBacklog = 8 << 20;     // bytes, for a member that hears the rounds
constexpr unsigned kMostBits = 32;
constexpr std::size_t kMostInACycle = 64;    // fragments: a cycle must not take for ever
constexpr const char* kSchedule = "rounds";  // the name of its state in checkpoints
// Of what a member hears, and at least so many steps: then it begins anew.
constexpr std::chrono::duration<double> kSilence = std::chrono::seconds(30);
constexpr int kSilentSteps = 4;

}  // namespace

LocalEngine::LocalEngine(NetThread& net, Group& group, std::unique_ptr<LocalRule> rule,
                         std::vector<TensorSpec> tensors, const EngineOptions& options,
                         std::function<void()> while_waiting)
    : LocalEngine(net, group, std::move(rule), std::move(tensors), options, std::move(while_waiting),
                  std::make_shared<Listener>()) {}

// The listener is there before the exchange is, which calls it.
LocalEngine::LocalEngine(NetThread& net, Group& group, std::unique_ptr<LocalRule> rule,
                         std::vector<TensorSpec> tensors, const EngineOptions& options,
                         std::function<void()> while_waiting, const std::shared_ptr<Listener>& listener)
    : PipelinedEngine(net, group, std::move(rule), std::move(tensors), {kUnderWay, /*behind=*/0}, options,
                      std::move(while_waiting),
                      [&](ExchangeOptions exchange) {
                        exchange.noun = "round";
                        return std::make_unique<RoundExchange>(
                            net.io().get_executor(), group, exchange, group.peer_timeout(),
                            RoundExchange::Handlers{
                                [listener] { listener->left_out(); },
                                [listener](Iteration from) { listener->listens(from); },
                                [listener](Gathered round) { listener->heard(std::move(round)); },
                                [listener](std::span<const std::byte> part) { listener->weights(part); }});
                      }),
      rule_(static_cast<LocalRule&>(this->rule())),
      listener_(listener),
      most_under_way_(rule_.schedule().total() == 1 ? 1 : kUnderWay),
      max_drift_(options.max_drift_seconds),
      step_timeout_(options.step_timeout_seconds),
      choose_coding_(options.wire == "auto"),
      given_coding_(choose_coding_ ? ValueCoding::int1 : coding_named(options.wire)),
      last_taken_(Clock::now()) {
  rule_.on_newcomers(
      [&net, &group](const std::vector<Rank>& newcomers, Digest digest, std::span<const float> weights) {
        asio::post(net.io(), [&group, newcomers, parts = write_weights(digest, weights)] {
          for (const Rank rank : newcomers) group.send_weights(rank, parts);
        });
      });
  // Silence is no loss: rounds go on without whoever is silent, and it comes back with what it learned.
  const auto drift = std::chrono::duration_cast<std::chrono::milliseconds>(max_drift_);
  usual_peer_timeout_ = group.peer_timeout();
  net.call([&] { group.set_peer_timeout(std::max(usual_peer_timeout_, drift)); });
}

LocalEngine::~LocalEngine() {
  net().call([this] { group().set_peer_timeout(usual_peer_timeout_); });
}

void LocalEngine::step(const StepInput& input) {
  pipeline().check();
  check_parameters(tensors(), input.parameters);
  if (!usable_samples(input.samples)) {
    throw Error(ErrorCode::invalid_argument, "step: the weight is " + to_text(input.samples) +
                                                 "; it must be 0, or lie between 1e-9 and 1e12");
  }
  if (input.samples > 0) {  // what ends the run counts as steps did, not as their last one
    weight_ += (weight_ == 0 ? 1 : kSmoothing) * (input.samples - weight_);
  }
  ++steps_;
  note_step_time();
  if (alone()) return;  // its weights are everybody's
  take_what_is_over(input.parameters);
  if (!takes_part(input.parameters, "in step()")) {
    bound_drift(input.parameters);
    last_step_ = Clock::now();
    return;
  }
  bound_drift(input.parameters);
  choose_size();
  if (begun() == taken_) last_taken_ = Clock::now();  // nothing is awaited: there is no drift yet
  std::optional<std::uint32_t> bad;
  if (begun() - taken_ < most_under_way_)  // one at a step, or a quick link would cost the host the more
    bad = begin(Level::active, input)->bad_tensor();
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
  const bool out = listener_->is_out();
  if ((begun() - taken_ < most_under_way_ && !out) || Clock::now() - last_taken_ < max_drift_ ||
      somebody_calls())
    return;
  warn("no round was over for " + to_text(max_drift_.count()) +
       " s: step() waits for the other members (max_drift)");
  if (out) {
    while (!somebody_calls() && !takes_part(parameters, "in step()")) {
      check_while_waiting();
      listener_->wait_for(std::chrono::milliseconds(100));
    }
    return;
  }
  if (pipeline().wait_unless(taken_ + 1, [this] { return somebody_calls(); })) take(parameters, "in step()");
}

void LocalEngine::choose_size() {
  const auto measured = rule_.newly_measured();
  if (!measured) return;
  const FragmentSchedule& schedule = rule_.schedule();
  const std::size_t most =
      choose_coding_ ? schedule.most() : std::min(schedule.most(), most_blocks(given_coding_));
  const std::size_t least =
      std::min(std::max(kLeastFragment / kFragmentBlock, schedule.total() / kMostInACycle), most);
  RoundSize now = measured->size;
  if (!choose_coding_) now.bits = 0;  // given: only fragments may change
  RoundSize next = sizes_.next(now, {step_seconds_, measured->seconds}, least, most);
  if (choose_coding_ && next.bits > 0)
    next.blocks = std::min(next.blocks, most_blocks(coding_of_bits(next.bits)));  // of a frame
  if (rounds().backlog() > kMostBacklog) {  // whoever only listens has a slower link than the rest
    next = {std::max(least, std::min(now.blocks, next.blocks) / 2), std::min(now.bits, next.bits)};
  }
  if (!choose_coding_) next.bits = kMostBits;  // who chooses its coding has no wish for that of others
  rule_.ask_for(next);
}

// --- A member that was left out of rounds

// Whether this member takes part in rounds; does what it can to come back if it does not.
bool LocalEngine::takes_part(std::span<float* const> parameters, const char* where) {
  if (!listener_->is_out()) return true;
  while (taken_ < begun()) take(parameters, where);  // over, and empty
  if (!listener_->has_begun()) {
    listen_anew();
    return false;
  }
  try {
    listener_->hear();
  } catch (const Error& error) {
    end_run(error);
  }
  const auto newest = listener_->newest();
  if (newest && come_back(*newest, parameters)) return true;
  if (!said_ready_ && listener_->is_ready()) {
    net().call([this] { rounds().ready(); });
    said_ready_ = true;
  }
  const auto patience = std::max(kSilence, kSilentSteps * std::chrono::duration<double>(step_seconds_));
  if (listener_->silence() > patience) listen_anew();
  return false;
}

// On the net thread, or what comes between the two would be of the time before.
void LocalEngine::listen_anew() {
  said_ready_ = false;
  auto blank = rule_.blank();
  net().call([&] {
    listener_->begin(std::move(blank));
    rounds().rejoin();
  });
}

// Returns whether the member has been let in from the round after `heard` on, and now takes part.
bool LocalEngine::come_back(Iteration heard, std::span<float* const> parameters) {
  pipeline().quiesce(begun(), "to come back into rounds");
  const bool let_in = net().call([&] {
    if (rounds().admitted_from() != heard + 1) return false;
    listener_->back();
    rounds().take_part();  // from here on it may be left out once more
    return true;
  });
  if (!let_in) return false;
  rule_.adopt(listener_->take_consensus(), parameters);
  go_on_after(heard);
  taken_ = heard;
  last_taken_ = Clock::now();
  warn("takes part in rounds again, from " + place_of_round(heard + 1) + " on");
  return true;
}

void LocalEngine::wait_until_back(std::span<float* const> parameters, const char* where) {
  const auto begin = Clock::now();
  while (!takes_part(parameters, where)) {
    check_while_waiting();
    expect_no_deadlock(where);
    if (Clock::now() - begin > step_timeout_) {
      end_run(Error(ErrorCode::timeout,
                    "this member was left out of rounds, and could not come back to them for " +
                        to_text(step_timeout_.count()) + " s"));
    }
    listener_->wait_for(std::chrono::milliseconds(100));
  }
}

void LocalEngine::expect_no_deadlock(const char* where) {
  const auto error = net().call([&] { return rounds().deadlock(where); });
  if (error) end_run(*error);
}

void LocalEngine::drain(Level level, std::span<float* const> parameters, std::span<const GroupSettings>) {
  pipeline().check();
  check_parameters(tensors(), parameters);
  StepInput input;
  input.parameters = parameters;
  input.samples = weight_ == 0 ? 1 : weight_;
  last_step_.reset();  // what follows is no step
  const char* where = level == Level::finished ? "in finish()" : "in consensus(), save() or load()";
  if (alone()) {
    rule_.read_parameters(parameters);
    rule_.weights_loaded(begun());
    if (level == Level::finished) end_with_equal_weights();
    return;
  }
  const std::size_t most = most_blocks(ValueCoding::int8);
  if (level == Level::finished) {
    const RoundSize now = rule_.schedule().size();
    rule_.ask_for({std::min(now.blocks, most), now.bits});
  }
  auto all_in = Clock::now();
  do {
    while (taken_ < begun()) take(parameters, where);
    wait_until_back(parameters, where);
    begin(level, input);
    take(parameters, where);
    expect_no_deadlock(where);
    const auto out = net().call([this] { return rounds().who_is_out(); });
    if (out.empty()) all_in = Clock::now();
    if (Clock::now() - all_in > step_timeout_) {
      end_run(Error(ErrorCode::timeout, out + " had no part in rounds for " + to_text(step_timeout_.count()) +
                                            " s, for which this member waits " + where +
                                            "; if its training is only slow, raise STELLA_STEP_TIMEOUT"));
    }
  } while (pipeline().least_level(begun()) < level);
  if (level != Level::finished) return;
  // From here on all members make the same rounds. What they have not told each other goes out finely, once
  // over the whole model; what that leaves is nothing that anybody could tell from rounding.
  const auto one_more = [&] {
    begin(level, input);
    take(parameters, where);
  };
  while (rule_.schedule().size().blocks > most) one_more();
  rule_.tell_finely();
  for (std::size_t told = 0; told < rule_.schedule().total(); told += rule_.schedule().last().blocks) {
    one_more();
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
  stats.rounds = taken_;
  stats.blocks_sent = rule_.blocks_sent();
  stats.blocks_applied = rule_.blocks_applied();
  return stats;
}

std::vector<StateArray> LocalEngine::state() {
  quiesce();
  return rule_.state();
}

void LocalEngine::restore(std::span<float* const>) {}  // a change, whoever made it, is learned here

bool LocalEngine::allocate_moment(const std::string&, std::uint32_t) { return false; }

// The steps of this member, and the schedule of fragments.
SelectorState LocalEngine::selector_state() {
  quiesce();
  SelectorState state{kSchedule, {steps_}};
  std::ranges::copy(rule_.schedule().state(), std::back_inserter(state.words));
  if (state.words.size() % 2 != 0)
    state.words.push_back(0);  // as of selectors, which have two for each bucket
  return state;
}

bool LocalEngine::set_selector_state(const SelectorState& state) {
  if (state.selector != kSchedule || state.words.size() < 2) return false;
  const auto schedule = std::span(state.words).subspan(1);
  if (!rule_.schedule().set_state(schedule) &&
      !rule_.schedule().set_state(schedule.first(schedule.size() - 1)))
    return false;
  steps_ = state.words.front();
  return true;
}

void LocalEngine::state_loaded(std::uint64_t iteration, std::span<float* const> parameters) {
  check_parameters(tensors(), parameters);
  if (!alone() && rule_.schedule().round() != iteration) {
    throw Error(ErrorCode::mismatch, "the schedule of fragments is that of " +
                                         place_of_round(rule_.schedule().round()) + ", the weights that of " +
                                         place_of_round(iteration));
  }
  rule_.weights_loaded(iteration);
  taken_ = iteration;
  last_step_.reset();
  last_taken_ = Clock::now();
  restart_after(iteration);
}

}  // namespace stella
