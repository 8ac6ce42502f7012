// The life of a gradient, and what keeps its stages in order. Start reading at Pipeline::run_bucket in
// pipeline.cpp.
#pragma once

#include <algorithm>
#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <condition_variable>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <vector>

#include "base/cpu_pool.hpp"
#include "base/ids.hpp"
#include "base/progress.hpp"
#include "engine/rule.hpp"
#include "engine/stage_times.hpp"
#include "engine/step.hpp"
#include "exchange/exchange.hpp"
#include "stella/engine.hpp"
#include "stella/error.hpp"

namespace stella {

// How far a trainer may be ahead of what it has taken.
struct PipelineDepth {
  unsigned under_way = 1;  // updates that it has not taken when it begins another one, at most
  unsigned behind = 1;     // of which a run begins with so many
};

// Runs the coroutines of one engine: one per bucket and iteration. The trainer's thread calls everything.
class Pipeline {
 public:
  //   network    the executor of the net thread, on which `exchange` lives
  //   depth      {s, s} for a trainer that takes update t - s as it begins t
  //   report     called once, on any thread, with the first failure that arose in here
  //   while_waiting  if there is one, called every 100 ms on the trainer's thread while it waits for others;
  //                  what it throws is a failure of this member
  Pipeline(CpuPool& cpu, asio::any_io_executor network, Exchange& exchange, Rule& rule, PipelineDepth depth,
           std::function<void(const Error&)> report, std::function<void()> while_waiting = {});
  // Cancels what is under way and waits for it.
  ~Pipeline();
  Pipeline(const Pipeline&) = delete;
  Pipeline& operator=(const Pipeline&) = delete;

  // Hands the step to one coroutine per bucket; returns when its gradients are copied.
  void start(std::shared_ptr<Step> step);

  // Waits until iteration t is applied, bucket by bucket, and takes it into the parameters. Each t once, in
  // order.
  //   where  "in step()": the call that waits, for errors; a literal
  void take(Iteration t, std::span<float* const> parameters, const char* where);

  // Whether take(t) would not wait.
  bool is_applied(Iteration t) const;

  // Waits until take(t) would not wait, and returns true; or false once `given_up`, asked every 100 ms, is.
  bool wait_unless(Iteration t, const std::function<bool()>& given_up);

  // Waits until iteration t is applied in all buckets and nothing is under way. `where` as above.
  void quiesce(Iteration t, const char* where);

  // The least level of all members in iteration t; known once t is applied.
  Level least_level(Iteration t) const;

  // Everything under way and to come throws `error`. Any thread; the first one counts.
  void fail(const Error& error);
  // Throws the failure, if there is one.
  void check() const;
  // The trainer does not want to wait any more: fails, and tells the others.
  void interrupt();

  // Goes on after `iteration`, with the updates that the parameters have not seen still to be taken. Only
  // while nothing is under way.
  void restart_after(Iteration iteration);

  const StageTimes& times() const { return times_; }

 private:
  // How far one bucket has come. Each stage of iteration t waits for its turn here.
  struct Gates {
    Gates(Iteration start, Iteration taken) : contributed(start), applied(start), published(taken) {}
    Progress contributed;  // the residual is settled
    Progress applied;      // to the consensus weights
    Progress published;    // to the trainer's parameters: at t + 1 once t is, as step() takes a t = 0 too
  };

  asio::awaitable<void> run_bucket(BucketId bucket, std::shared_ptr<Step> step);
  asio::awaitable<void> copy_gradients(BucketId bucket, Step& step);
  void copy_at_once(Step& step);
  void drop_gradients(const Step& step);
  PayloadPtr contribute(BucketId bucket, const Step& step);
  asio::awaitable<Gathered> all_gather(PayloadPtr mine);
  Update merge(BucketId bucket, const Gathered& all);
  void apply(BucketId bucket, Update update);
  // The update that must be in the parameters before that of iteration t may change the weights.
  Iteration seen_before(Iteration t) const { return t - std::max<Iteration>(depth_.under_way, 1); }
  void finished(std::exception_ptr error);
  // The trainer's thread waits for iteration t now.
  void say_what_is_awaited(Iteration t, const char* where);
  // Blocks the trainer's thread until iteration t of the bucket is applied.
  //   also  called every 100 ms meanwhile, if there is one; what it throws ends the wait
  void wait_applied(Gates& gates, Iteration t, const std::function<void()>& also = {});
  void note_levels(const Gathered& all);

  CpuPool& cpu_;
  const asio::any_io_executor network_;
  Exchange& exchange_;
  Rule& rule_;
  const PipelineDepth depth_;
  const std::function<void(const Error&)> report_;
  const std::function<void()> while_waiting_;
  std::vector<std::unique_ptr<Gates>> gates_;  // by bucket; replaced under mutex_: fail() may come any time
  StageTimes times_;

  mutable std::mutex mutex_;  // guards what follows
  std::condition_variable idle_;
  std::size_t running_ = 0;  // coroutines
  std::optional<Error> failure_;
  std::vector<std::pair<Iteration, Level>> levels_;  // of the latest iterations
};

}  // namespace stella
