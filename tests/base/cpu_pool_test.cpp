#include "base/cpu_pool.hpp"

#include <gtest/gtest.h>

#include <asio/co_spawn.hpp>
#include <asio/use_future.hpp>
#include <future>
#include <mutex>
#include <thread>

namespace stella {
namespace {

// Coroutines take their parameters by value: a lambda's captures would die with the lambda.
asio::awaitable<void> note_when_run(CpuPool& pool, Priority priority, std::vector<Priority>& order) {
  co_await pool.enter(priority);
  order.push_back(priority);
}

TEST(CpuPool, EarlierIterationsRunFirstThenBucketsNearerTheInput) {
  CpuPool pool(1);
  std::promise<void> gate;
  auto opened = gate.get_future();
  asio::post(pool.executor(), [&opened] { opened.wait(); });  // occupies the only thread meanwhile
  std::vector<Priority> order;
  std::vector<std::future<void>> done;
  for (Priority priority : {Priority{2, 0}, Priority{1, 1}, Priority{2, 1}, Priority{1, 0}}) {
    done.push_back(asio::co_spawn(pool.executor(), note_when_run(pool, priority, order), asio::use_future));
  }
  gate.set_value();
  for (auto& one : done) one.get();
  EXPECT_EQ(order, (std::vector<Priority>{{1, 0}, {1, 1}, {2, 0}, {2, 1}}));
}

asio::awaitable<std::thread::id> thread_after_enter(CpuPool& pool) {
  co_await pool.enter({1, 0});
  co_return std::this_thread::get_id();
}

TEST(CpuPool, WorkRunsOnAThreadOfThePool) {
  CpuPool pool(2);
  auto id = asio::co_spawn(pool.executor(), thread_after_enter(pool), asio::use_future).get();
  EXPECT_NE(id, std::this_thread::get_id());
}

}  // namespace
}  // namespace stella
