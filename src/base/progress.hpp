// The newest iteration that has passed some point of the pipeline.
#pragma once

#include <algorithm>
#include <asio/awaitable.hpp>
#include <chrono>
#include <condition_variable>
#include <exception>
#include <functional>
#include <mutex>
#include <utility>
#include <vector>

#include "base/ids.hpp"
#include "base/waiters.hpp"

namespace stella {

// A counter that only grows, with waiters: coroutines suspend, ordinary threads block. Any thread may call
// anything. It must outlive its waiters.
class Progress {
 public:
  explicit Progress(Iteration start = 0) : reached_(start) {}

  // Iteration t has passed. t below the newest one changes nothing.
  void advance(Iteration t) {
    std::vector<std::pair<Iteration, Resume>> ready;
    {
      std::lock_guard lock(mutex_);
      if (t <= reached_) return;
      reached_ = t;
      auto first_ready = std::partition(waiters_.begin(), waiters_.end(),
                                        [t](const auto& waiter) { return waiter.first > t; });
      std::move(first_ready, waiters_.end(), std::back_inserter(ready));
      waiters_.erase(first_ready, waiters_.end());
    }
    blocked_.notify_all();
    for (auto& [iteration, resume] : ready) resume(nullptr);
  }

  // Everybody who waits, now or later, for an iteration that has not passed throws `error`.
  void fail(std::exception_ptr error) {
    std::vector<std::pair<Iteration, Resume>> waiters;
    {
      std::lock_guard lock(mutex_);
      if (error_) return;
      error_ = error;
      waiters.swap(waiters_);
    }
    blocked_.notify_all();
    for (auto& [iteration, resume] : waiters) resume(error);
  }

  bool has_passed(Iteration t) const {
    std::lock_guard lock(mutex_);
    return t <= reached_;
  }

  // Resumes once t has passed.
  asio::awaitable<void> reached(Iteration t) {
    return suspend([this, t](Resume resume) {
      std::unique_lock lock(mutex_);
      if (t > reached_ && !error_) {
        waiters_.emplace_back(t, std::move(resume));
        return;
      }
      const auto error = t > reached_ ? error_ : nullptr;
      lock.unlock();
      resume(error);
    });
  }

  // Blocks the calling thread until t has passed. `while_waiting`, if there is one, is called every 100 ms
  // meanwhile; what it throws ends the wait.
  void wait(Iteration t, const std::function<void()>& while_waiting = {}) {
    std::unique_lock lock(mutex_);
    const auto over = [&] { return t <= reached_ || error_; };
    while (!over()) {
      if (!while_waiting) {
        blocked_.wait(lock, over);
      } else if (!blocked_.wait_for(lock, std::chrono::milliseconds(100), over)) {
        lock.unlock();
        while_waiting();
        lock.lock();
      }
    }
    if (t > reached_) std::rethrow_exception(error_);
  }

 private:
  mutable std::mutex mutex_;  // guards what follows
  Iteration reached_;
  std::exception_ptr error_;
  std::vector<std::pair<Iteration, Resume>> waiters_;
  std::condition_variable blocked_;
};

}  // namespace stella
