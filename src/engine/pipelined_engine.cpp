#include "engine/pipelined_engine.hpp"

#include <algorithm>
#include <chrono>
#include <string>
#include <thread>
#include <utility>

#include "base/text.hpp"
#include "engine/layout.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

std::size_t pool_threads(std::size_t asked) {
  const std::size_t cores = std::max(1u, std::thread::hardware_concurrency());
  return asked != 0 ? asked : std::min<std::size_t>(cores, 4);
}

ExchangeOptions exchange_options(const Rule& rule, unsigned under_way, const EngineOptions& options) {
  ExchangeOptions exchange;
  exchange.buckets = static_cast<std::uint32_t>(rule.buckets());
  // A member at iteration t has applied t - 1 - under_way, to which this one contributed when it had gathered
  // t - 2 - 2 * under_way at least.
  exchange.window = 2 + 2 * Iteration{under_way};
  exchange.timeout = std::chrono::duration_cast<std::chrono::nanoseconds>(
      std::chrono::duration<double>(options.step_timeout_seconds));
  return exchange;
}

}  // namespace

PipelinedEngine::PipelinedEngine(NetThread& net, Group& group, std::unique_ptr<Rule> rule,
                                 std::vector<TensorSpec> tensors, PipelineDepth depth,
                                 const EngineOptions& options, std::function<void()> while_waiting,
                                 const MakeExchange& make_exchange)
    : net_(net),
      group_(group),
      tensors_(std::move(tensors)),
      while_waiting_(std::move(while_waiting)),
      rule_(std::move(rule)),
      cpu_(pool_threads(options.threads)),
      exchange_(net.call([&] { return make_exchange(exchange_options(*rule_, depth.under_way, options)); })) {
  // Tells the others of a failure that arose here; does nothing if it was theirs.
  const auto report = [this](const Error& error) {
    asio::co_spawn(net_.io(), group_.abort(error.what(), error.code()), [](std::exception_ptr) {});
  };
  pipeline_ = std::make_unique<Pipeline>(cpu_, net_.io().get_executor(), *exchange_, *rule_, depth, report,
                                         while_waiting_);
  net_.call([this] {
    group_.on_failure([this](const Error& error) { pipeline_->fail(error); });
    if (group_.failure() != nullptr) pipeline_->fail(*group_.failure());
  });
}

PipelinedEngine::~PipelinedEngine() {
  if (!finished_ && group_.world_size() > 1) tell_others();
  net_.call([this] { group_.on_failure([](const Error&) {}); });
  pipeline_.reset();
  net_.call([this] { exchange_.reset(); });
}

// They need this member in every iteration, and would wait for it until the step timeout.
void PipelinedEngine::tell_others() {
  try {
    net_.run(group_.abort("it ended without finish()"));
  } catch (const std::exception&) {
    // The others are told as far as they can be reached; a destructor has nobody to tell.
  }
}

void PipelinedEngine::warn(const std::string& sentence) const {
  net_.call([&] { group_.log()->warn(sentence); });
}

bool PipelinedEngine::somebody_calls() const {
  return net_.call([&] {
    for (Rank rank = 0; rank < group_.world_size(); ++rank) {
      if (group_.call_ahead(rank)) return true;
    }
    return false;
  });
}

std::shared_ptr<Step> PipelinedEngine::begin(Level level, const StepInput& input) {
  finished_ = false;
  auto step = std::make_shared<Step>(++begun_, level, input, rule_->buckets());
  pipeline_->start(step);
  return step;
}

void PipelinedEngine::end_with_equal_weights() {
  Bytes mine;
  ByteWriter(mine).put(rule_->digest());
  expect_everywhere(
      "digest", mine,
      "the final weights differ; load the last checkpoint, and report this: it should not happen");
  finished_ = true;
}

void PipelinedEngine::go_on_after(Iteration iteration) {
  begun_ = iteration;
  pipeline_->restart_after(iteration);
}

void PipelinedEngine::end_run(const Error& error) {
  pipeline_->fail(error);
  net_.run(group_.abort(error.what(), error.code()));
  throw error;
}

void PipelinedEngine::check_while_waiting() {
  pipeline_->check();
  if (!while_waiting_) return;
  try {
    while_waiting_();
  } catch (...) {
    pipeline_->interrupt();
    throw;
  }
}

void PipelinedEngine::restart_after(Iteration iteration) {
  go_on_after(iteration);
  net_.call([&] { exchange_->restart_after(iteration); });
  Bytes mine;
  ByteWriter writer(mine);
  writer.put(iteration);
  writer.put(rule_->digest());
  // Also a barrier: from here on everybody can receive payloads of the next iteration.
  expect_everywhere("state loaded", mine,
                    "different states were loaded; load the same checkpoint on all members");
  net_.call([&] { exchange_->began(iteration); });
}

void PipelinedEngine::expect_everywhere(const std::string& tag, const Bytes& mine,
                                        const std::string& difference) {
  const auto all = net_.run(group_.all_gather(tag, mine), while_waiting_, [this] { pipeline_->interrupt(); });
  for (Rank rank = 0; rank < all.size(); ++rank) {
    if (all[rank] == mine) continue;
    end_run(Error(ErrorCode::mismatch, "here and on " + group_.describe(rank) + " " + difference));
  }
}

void PipelinedEngine::quiesce() {
  pipeline_->check();
  pipeline_->quiesce(begun_, "to read or set its state (save, digest, state_dict, load_state_dict)");
}

std::uint64_t PipelinedEngine::digest() {
  quiesce();
  return rule_->digest();
}

EngineStats PipelinedEngine::stats() const {
  EngineStats stats;
  pipeline_->times().read(stats);
  net_.call([&] {
    for (Rank rank = 0; rank < group_.world_size(); ++rank) {
      const Traffic traffic = group_.traffic(rank);
      stats.bytes_sent += traffic.bytes_sent;
      stats.bytes_received += traffic.bytes_received;
    }
  });
  return stats;
}

void check_parameters(std::span<const TensorSpec> tensors, std::span<float* const> parameters) {
  if (parameters.size() != tensors.size()) {
    throw Error(ErrorCode::invalid_argument, "the model has " + std::to_string(tensors.size()) +
                                                 " parameters, but " + std::to_string(parameters.size()) +
                                                 " addresses were passed");
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (parameters[i] == nullptr && numel(tensors[i]) > 0) {
      throw Error(ErrorCode::invalid_argument,
                  "the address of parameter '" + tensors[i].name + "' is null, but it has elements");
    }
  }
}

void check_options(const EngineOptions& options) {
  const auto refuse = [](const std::string& sentence) { throw Error(ErrorCode::invalid_argument, sentence); };
  if (!(options.density > 0 && options.density <= 1)) {
    refuse("density is " + to_text(options.density) + "; it must be above 0 and at most 1");
  }
  if (options.staleness > 1)
    refuse("staleness is " + std::to_string(options.staleness) + "; it must be 0 or 1");
  if (options.block != 16 && options.block != 32 && options.block != 64)
    refuse("block is " + std::to_string(options.block) + "; it must be 16, 32 or 64");
  if (options.bucket_bytes < 4096 || options.bucket_bytes > (std::size_t{32} << 20)) {
    refuse("bucket_bytes is " + std::to_string(options.bucket_bytes) +
           "; it must lie between 4 KiB and 32 MiB");
  }
  if (options.rule != "sparse" && options.rule != "local")
    refuse("rule is '" + options.rule + "'; it must be sparse or local");
  if (options.pull && !(*options.pull >= 0 && *options.pull <= 1))
    refuse("pull is " + to_text(*options.pull) + "; it must be from 0 to 1");
  if (!(options.max_drift_seconds >= 0.001 && options.max_drift_seconds <= 1e8)) {
    refuse("max_drift is " + to_text(options.max_drift_seconds) +
           " s; it must be at least 0.001 and at most 1e8");
  }
  if (options.threads > 256)
    refuse("threads is " + std::to_string(options.threads) + "; it must be at most 256");
  if (!(options.step_timeout_seconds >= 0.001 && options.step_timeout_seconds <= 1e8)) {
    refuse("the step timeout is " + to_text(options.step_timeout_seconds) +
           " s; it must be at least 0.001 and at most 1e8");
  }
}

}  // namespace stella
