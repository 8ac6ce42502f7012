// Something that happens once, or fails.
#pragma once

#include <asio/awaitable.hpp>
#include <exception>
#include <mutex>
#include <vector>

#include "base/waiters.hpp"

namespace stella {

// Coroutines wait for it without occupying a thread. Any thread may call anything. Once set or failed it
// stays so; later calls of set() and fail() change nothing. It must outlive its waiters' suspension.
class Event {
 public:
  void set() { finish(nullptr); }
  // Everybody who waits, now or later, throws `error`.
  void fail(std::exception_ptr error) { finish(error); }

  asio::awaitable<void> wait() {
    return suspend([this](Resume resume) {
      std::unique_lock lock(mutex_);
      if (!done_) {
        waiters_.push_back(std::move(resume));
        return;
      }
      lock.unlock();
      resume(error_);
    });
  }

 private:
  void finish(std::exception_ptr error) {
    std::unique_lock lock(mutex_);
    if (done_) return;
    done_ = true;
    error_ = error;
    auto waiters = std::move(waiters_);
    lock.unlock();
    for (auto& resume : waiters) resume(error);
  }

  std::mutex mutex_;  // guards what follows
  bool done_ = false;
  std::exception_ptr error_;
  std::vector<Resume> waiters_;
};

}  // namespace stella
