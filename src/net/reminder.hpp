// What to do while an operation takes long, and longer.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/steady_timer.hpp>
#include <cassert>
#include <chrono>
#include <functional>
#include <memory>
#include <utility>

namespace stella {

// Calls `remind` with the time that has passed: after `first`, then after twice as long, four times and so
// on, until it is destroyed. Lives in the coroutine that runs the operation; single-threaded executors only.
class Reminder {
 public:
  Reminder(const asio::any_io_executor& executor, std::chrono::milliseconds first,
           std::function<void(std::chrono::milliseconds)> remind)
      : state_(std::make_shared<State>(executor, std::move(remind))) {
    assert(first.count() > 0);
    wait(state_, first, first);
  }
  Reminder(const Reminder&) = delete;
  Reminder& operator=(const Reminder&) = delete;

 private:
  struct State {
    State(const asio::any_io_executor& executor, std::function<void(std::chrono::milliseconds)> on_time)
        : timer(executor), remind(std::move(on_time)) {}
    asio::steady_timer timer;
    std::function<void(std::chrono::milliseconds)> remind;
  };

  // After `more`, reminds of `passed` in all; the time until the next is as long as all before.
  static void wait(const std::shared_ptr<State>& state, std::chrono::milliseconds more,
                   std::chrono::milliseconds passed) {
    state->timer.expires_after(more);
    state->timer.async_wait([weak = std::weak_ptr(state), passed](const std::error_code& error) {
      const auto alive = weak.lock();
      if (error || !alive) return;
      alive->remind(passed);
      wait(alive, passed, 2 * passed);
    });
  }

  std::shared_ptr<State> state_;
};

}  // namespace stella
