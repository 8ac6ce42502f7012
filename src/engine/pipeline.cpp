#include "engine/pipeline.hpp"

#include <algorithm>
#include <asio/co_spawn.hpp>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <utility>

namespace stella {

// The life of a gradient: one of these per bucket and iteration. What is contributed and how it is applied is
// the rule's; who goes first on the CPU and on the wire is decided by (iteration, bucket).
asio::awaitable<void> Pipeline::run_bucket(BucketId bucket, std::shared_ptr<Step> step) {
  const Iteration t = step->iteration;
  const Priority urgency{t, bucket};
  Gates& gates = *gates_[bucket];

  if (!rule_.copies_at_once()) co_await copy_gradients(bucket, *step);  // out of torch's memory
  co_await step->handed_over.wait();  // every bucket has its copy: torch goes on from here

  co_await cpu_.enter(urgency);
  auto mine = contribute(bucket, *step);
  gates.contributed.advance(t);

  auto all = co_await all_gather(std::move(mine));

  co_await cpu_.enter(urgency);
  auto update = merge(bucket, all);  // in member order

  co_await gates.applied.reached(t - 1);
  co_await gates.published.reached(seen_before(t) + 1);  // step() has taken what it waited for
  co_await cpu_.enter(urgency);
  apply(bucket, std::move(update));  // bit for bit the same everywhere
  gates.applied.advance(t);          // a step() takes it into the parameters
}

// Reports to the step in any case, so that the trainer never leaves while its memory is being read.
asio::awaitable<void> Pipeline::copy_gradients(BucketId bucket, Step& step) {
  std::optional<std::uint32_t> bad;
  std::exception_ptr error;
  try {
    co_await gates_[bucket]->contributed.reached(step.iteration - 1);
    co_await cpu_.enter({step.iteration, bucket});
    bad = rule_.copy(bucket, step.input);
  } catch (...) {
    error = std::current_exception();
  }
  if (step.copied(bad, error != nullptr)) {  // the last one
    if (step.to_drop()) drop_gradients(step);
    step.hand_over();
  }
  if (error) std::rethrow_exception(error);
}

// The trainer waits for nobody then.
void Pipeline::copy_at_once(Step& step) {
  for (BucketId bucket = 0; bucket < gates_.size(); ++bucket) {
    if (!step.copied(rule_.copy(bucket, step.input), /*failed=*/false)) continue;  // not yet the last one
    if (step.to_drop()) drop_gradients(step);
    step.hand_over();
  }
}

void Pipeline::drop_gradients(const Step& step) {
  for (BucketId bucket = 0; bucket < gates_.size(); ++bucket) rule_.drop(bucket, step.input);
}

asio::awaitable<Gathered> Pipeline::all_gather(PayloadPtr mine) {
  const auto begin = StageTimes::Clock::now();
  auto all = co_await asio::co_spawn(network_, exchange_.all_gather(std::move(mine)), asio::use_awaitable);
  times_.add(&EngineStats::exchange, begin);
  co_return all;
}

PayloadPtr Pipeline::contribute(BucketId bucket, const Step& step) {
  return times_.time(&EngineStats::contribute, [&] { return rule_.contribute(bucket, step); });
}

Update Pipeline::merge(BucketId bucket, const Gathered& all) {
  note_levels(all);
  return times_.time(&EngineStats::merge, [&] { return rule_.merge(bucket, all); });
}

void Pipeline::apply(BucketId bucket, Update update) {
  times_.time(&EngineStats::apply, [&] { rule_.apply(bucket, std::move(update)); });
}

Pipeline::Pipeline(CpuPool& cpu, asio::any_io_executor network, Exchange& exchange, Rule& rule,
                   PipelineDepth depth, std::function<void(const Error&)> report,
                   std::function<void()> while_waiting)
    : cpu_(cpu),
      network_(std::move(network)),
      exchange_(exchange),
      rule_(rule),
      depth_(depth),
      report_(std::move(report)),
      while_waiting_(std::move(while_waiting)) {
  restart_after(0);
}

Pipeline::~Pipeline() {
  {
    std::lock_guard lock(mutex_);
    if (!failure_) failure_.emplace(ErrorCode::cancelled, "the engine was closed");
  }
  fail(*failure_);
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return running_ == 0; });
}

void Pipeline::start(std::shared_ptr<Step> step) {
  check();
  if (rule_.copies_at_once()) times_.time(&EngineStats::step_copy, [&] { copy_at_once(*step); });
  {
    std::lock_guard lock(mutex_);
    running_ += gates_.size();
  }
  asio::post(network_, [&exchange = exchange_, t = step->iteration] { exchange.began(t); });
  for (BucketId bucket = 0; bucket < gates_.size(); ++bucket) {
    asio::co_spawn(cpu_.executor(), run_bucket(bucket, step),
                   [this](std::exception_ptr error) { finished(error); });
  }
  times_.time(&EngineStats::step_copy, [&] { step->trainer_may_go_on.wait(1); });
}

void Pipeline::take(Iteration t, std::span<float* const> parameters, const char* where) {
  say_what_is_awaited(t, where);
  for (BucketId bucket = 0; bucket < gates_.size(); ++bucket) {
    times_.time(&EngineStats::step_wait, [&] { wait_applied(*gates_[bucket], t); });
    times_.time(&EngineStats::step_publish, [&] { rule_.publish(bucket, t, parameters); });
    gates_[bucket]->published.advance(t + 1);
  }
}

bool Pipeline::is_applied(Iteration t) const {
  return std::ranges::all_of(gates_, [t](const auto& gates) { return gates->applied.has_passed(t); });
}

bool Pipeline::wait_unless(Iteration t, const std::function<bool()>& given_up) {
  struct GivenUp {};
  try {
    for (const auto& gates : gates_) {
      wait_applied(*gates, t, [&] {
        if (given_up()) throw GivenUp{};
      });
    }
  } catch (const GivenUp&) {
    return false;
  }
  return true;
}

void Pipeline::quiesce(Iteration t, const char* where) {
  say_what_is_awaited(t, where);
  for (const auto& gates : gates_) wait_applied(*gates, t);
  std::unique_lock lock(mutex_);
  idle_.wait(lock, [this] { return running_ == 0; });
}

void Pipeline::say_what_is_awaited(Iteration t, const char* where) {
  asio::post(network_, [&exchange = exchange_, t, where] { exchange.trainer_waits_for(t, where); });
}

void Pipeline::wait_applied(Gates& gates, Iteration t, const std::function<void()>& also) {
  const auto interruptible = [&] {
    if (also) also();
    if (!while_waiting_) return;
    try {
      while_waiting_();
    } catch (...) {
      interrupt();
      throw;
    }
  };
  gates.applied.wait(t, while_waiting_ || also ? std::function<void()>(interruptible) : nullptr);
}

Level Pipeline::least_level(Iteration t) const {
  std::lock_guard lock(mutex_);
  const auto found =
      std::find_if(levels_.begin(), levels_.end(), [t](const auto& entry) { return entry.first == t; });
  return found == levels_.end() ? Level::active : found->second;
}

void Pipeline::fail(const Error& error) {
  asio::post(network_, [&exchange = exchange_, error] { exchange.fail(error); });
  std::lock_guard lock(mutex_);
  if (!failure_) failure_ = error;
  const auto thrown = std::make_exception_ptr(*failure_);
  for (const auto& gates : gates_) {
    gates->contributed.fail(thrown);
    gates->applied.fail(thrown);
    gates->published.fail(thrown);
  }
}

void Pipeline::interrupt() {
  const Error error(ErrorCode::cancelled, "it was interrupted");
  fail(error);
  report_(error);
}

void Pipeline::check() const {
  std::lock_guard lock(mutex_);
  if (failure_) throw *failure_;
}

void Pipeline::restart_after(Iteration iteration) {
  std::lock_guard lock(mutex_);
  gates_.clear();
  levels_.clear();
  for (std::size_t bucket = 0; bucket < rule_.buckets(); ++bucket) {
    gates_.push_back(std::make_unique<Gates>(iteration, iteration + 1 - depth_.behind));
  }
}

void Pipeline::finished(std::exception_ptr error) {
  if (error) {
    bool first = false;
    Error failure(ErrorCode::cancelled, "");
    try {
      std::rethrow_exception(error);
    } catch (const Error& known) {
      failure = known;
    } catch (const std::exception& other) {
      failure = Error(ErrorCode::io, std::string("the engine failed: ") + other.what());
    }
    {
      std::lock_guard lock(mutex_);
      first = !failure_;
      if (first) failure_ = failure;
    }
    if (first) {
      report_(failure);  // first: the trainer that fail() wakes may end the engine, which reports less
      fail(failure);
    }
  }
  std::lock_guard lock(mutex_);
  if (--running_ == 0) idle_.notify_all();
}

// Of a member that has no part in it nothing is known: it may be in the middle of its training.
void Pipeline::note_levels(const Gathered& all) {
  const Iteration t = all.iteration;
  Level least = Level::finished;
  for (const auto& payload : all.payloads)
    least = std::min(least, payload ? payload->header().level : Level::active);
  std::lock_guard lock(mutex_);
  std::erase_if(levels_, [&](const auto& entry) {
    return entry.first + 2 * depth_.under_way + 2 < t || entry.first == t;
  });
  levels_.emplace_back(t, least);
}

}  // namespace stella
