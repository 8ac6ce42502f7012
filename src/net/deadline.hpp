// What to do when an operation takes too long.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/steady_timer.hpp>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

namespace stella {

using TimePoint = std::chrono::steady_clock::time_point;

// Calls `expire` (which ends the operation, usually by closing a socket) on the executor unless it is
// destroyed before `when`. Lives in the coroutine that runs the operation; single-threaded executors only.
class Deadline {
 public:
  Deadline(const asio::any_io_executor& executor, TimePoint when, std::function<void()> expire)
      : state_(std::make_shared<State>(executor, std::move(expire))) {
    state_->timer.expires_at(when);
    state_->timer.async_wait([state = std::weak_ptr(state_)](const std::error_code& error) {
      const auto alive = state.lock();
      if (error || !alive) return;
      alive->expired = true;
      alive->expire();
    });
  }
  Deadline(const Deadline&) = delete;
  Deadline& operator=(const Deadline&) = delete;

  bool expired() const { return state_->expired; }

 private:
  struct State {
    State(const asio::any_io_executor& executor, std::function<void()> on_expiry)
        : timer(executor), expire(std::move(on_expiry)) {}
    asio::steady_timer timer;
    std::function<void()> expire;
    bool expired = false;
  };
  std::shared_ptr<State> state_;
};

}  // namespace stella
