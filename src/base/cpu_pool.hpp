// The threads that compute. Earlier iterations first, then buckets nearer the input (StellaTrain §3.3,
// "earliest deadline first"); running work is not interrupted.
#pragma once

#include <asio/awaitable.hpp>
#include <asio/thread_pool.hpp>
#include <cstddef>
#include <cstdint>
#include <mutex>
#include <queue>
#include <vector>

#include "base/ids.hpp"
#include "base/waiters.hpp"

namespace stella {

// What to compute first: the smaller one.
struct Priority {
  Iteration iteration = 0;
  BucketId bucket = 0;
  friend auto operator<=>(const Priority&, const Priority&) = default;
};

// A pool of `threads` threads over a priority queue. Any thread may call anything.
class CpuPool {
 public:
  explicit CpuPool(std::size_t threads);
  // Lets queued work finish, then joins the threads.
  ~CpuPool();

  asio::thread_pool::executor_type executor() { return pool_.get_executor(); }

  // The calling coroutine, which must have been spawned on executor(), goes on on a thread of the pool when
  // no more urgent work is waiting. It computes in the default floating-point environment: equal on all
  // members.
  asio::awaitable<void> enter(Priority priority);

 private:
  struct Waiting {
    Priority priority;
    std::uint64_t ticket;  // first come, first served among equals
    Resume resume;
  };
  struct Later {
    bool operator()(const Waiting& a, const Waiting& b) const;
  };
  void run_most_urgent();

  asio::thread_pool pool_;
  std::mutex mutex_;  // guards what follows
  std::priority_queue<Waiting, std::vector<Waiting>, Later> queue_;
  std::uint64_t tickets_ = 0;
};

}  // namespace stella
