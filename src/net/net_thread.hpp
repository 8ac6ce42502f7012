// The thread on which everything of src/net, src/membership and src/exchange lives.
#pragma once

#include <asio/co_spawn.hpp>
#include <asio/executor_work_guard.hpp>
#include <asio/io_context.hpp>
#include <asio/post.hpp>
#include <asio/use_future.hpp>
#include <chrono>
#include <functional>
#include <future>
#include <memory>
#include <thread>
#include <type_traits>
#include <utility>

namespace stella {

// Runs an io_context on one thread. Calls of run() come from other threads and block them.
class NetThread {
 public:
  NetThread() : work_(asio::make_work_guard(io_)), thread_([this] { io_.run(); }) {}
  // Whatever lives on the thread must have been ended before.
  ~NetThread() {
    work_.reset();
    io_.stop();
    thread_.join();
  }
  NetThread(const NetThread&) = delete;
  NetThread& operator=(const NetThread&) = delete;

  asio::io_context& io() { return io_; }

  // Runs a coroutine there; returns what it returns, throws what it throws.
  //   while_waiting  if there is one, called every 100 ms on the calling thread; what it throws comes out of
  //                  here, once the coroutine has ended
  //   give_up        called on the net thread then: makes the coroutine end
  template <class T>
  T run(asio::awaitable<T> coroutine, const std::function<void()>& while_waiting = {},
        const std::function<void()>& give_up = {}) {
    auto result = asio::co_spawn(io_, std::move(coroutine), asio::use_future);
    while (while_waiting && result.wait_for(std::chrono::milliseconds(100)) == std::future_status::timeout) {
      try {
        while_waiting();
      } catch (...) {
        asio::post(io_, give_up);
        result.wait();
        throw;
      }
    }
    return result.get();
  }

  // Calls `function` there; returns what it returns, throws what it throws.
  template <class Function>
  auto call(Function function) {
    auto task = std::make_shared<std::packaged_task<std::invoke_result_t<Function>()>>(std::move(function));
    auto result = task->get_future();
    asio::post(io_, [task] { (*task)(); });
    return result.get();
  }

 private:
  asio::io_context io_{1};
  asio::executor_work_guard<asio::io_context::executor_type> work_;
  std::thread thread_;
};

}  // namespace stella
