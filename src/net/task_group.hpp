// Coroutines with an owner.
#pragma once

#include <asio/any_io_executor.hpp>
#include <asio/awaitable.hpp>
#include <cstddef>
#include <exception>
#include <functional>
#include <memory>

namespace stella {

// Starts coroutines, sees their exceptions, cancels them and waits for them. Single-threaded executors only.
class TaskGroup {
 public:
  // `on_error` gets each exception that a coroutine lets out.
  TaskGroup(const asio::any_io_executor& executor, std::function<void(std::exception_ptr)> on_error);

  void spawn(asio::awaitable<void> task);
  // What each running coroutine waits for ends with operation_aborted.
  void cancel();
  // Returns once no coroutine runs.
  asio::awaitable<void> join();

 private:
  struct State;  // outlives the group until the last coroutine is over
  std::shared_ptr<State> state_;
};

}  // namespace stella
