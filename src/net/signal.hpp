// A condition variable for the coroutines of one thread.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <asio/redirect_error.hpp>
#include <asio/steady_timer.hpp>
#include <asio/use_awaitable.hpp>
#include <chrono>
#include <memory>

namespace stella {

// Wait in a loop that tests the condition; whoever changes it calls notify(). Single-threaded executors only,
// so nothing can change between the test and the wait.
class Signal {
 public:
  explicit Signal(const asio::any_io_executor& executor)
      : timer_(executor, asio::steady_timer::time_point::max()) {}

  // Wakes everybody who waits now.
  void notify() { timer_.cancel(); }

  asio::awaitable<void> wait() {
    std::error_code woken;
    co_await timer_.async_wait(asio::redirect_error(asio::use_awaitable, woken));
  }

 private:
  asio::steady_timer timer_;
};

}  // namespace stella
