#include "net/task_group.hpp"

#include <asio/bind_cancellation_slot.hpp>
#include <asio/cancellation_signal.hpp>
#include <asio/co_spawn.hpp>
#include <list>
#include <utility>

#include "net/signal.hpp"

namespace stella {

struct TaskGroup::State {
  State(const asio::any_io_executor& on, std::function<void(std::exception_ptr)> handler)
      : executor(on), on_error(std::move(handler)), ended(on) {}
  asio::any_io_executor executor;
  std::function<void(std::exception_ptr)> on_error;
  std::list<asio::cancellation_signal> stops;  // one per running coroutine
  Signal ended;
};

TaskGroup::TaskGroup(const asio::any_io_executor& executor, std::function<void(std::exception_ptr)> on_error)
    : state_(std::make_shared<State>(executor, std::move(on_error))) {}

void TaskGroup::spawn(asio::awaitable<void> task) {
  const auto stop = state_->stops.emplace(state_->stops.end());
  auto ended = [state = state_, stop](std::exception_ptr error) {
    state->stops.erase(stop);
    if (error) state->on_error(error);
    state->ended.notify();
  };
  asio::co_spawn(state_->executor, std::move(task),
                 asio::bind_cancellation_slot(stop->slot(), std::move(ended)));
}

void TaskGroup::cancel() {
  for (auto& stop : state_->stops) stop.emit(asio::cancellation_type::terminal);
}

asio::awaitable<void> TaskGroup::join() {
  const auto state = state_;
  while (!state->stops.empty()) co_await state->ended.wait();
}

}  // namespace stella
