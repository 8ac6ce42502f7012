#include "base/progress.hpp"

#include <gtest/gtest.h>

#include <asio/co_spawn.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>
#include <stdexcept>
#include <thread>

namespace stella {
namespace {

asio::awaitable<void> wait_for(Progress& progress, Iteration t) { co_await progress.reached(t); }

TEST(Progress, CoroutinesResumeOnceTheirIterationHasPassed) {
  asio::thread_pool pool(2);
  Progress progress;
  auto third = asio::co_spawn(pool, wait_for(progress, 3), asio::use_future);
  progress.advance(2);
  EXPECT_EQ(third.wait_for(std::chrono::milliseconds(20)), std::future_status::timeout);
  progress.advance(3);
  third.get();
}

TEST(Progress, ThreadsBlockUntilTheirIterationHasPassed) {
  Progress progress;
  std::thread other([&] { progress.advance(5); });
  progress.wait(5);
  other.join();
  EXPECT_THROW(progress.wait(6, [] { throw std::runtime_error("not yet"); }), std::runtime_error);
}

TEST(Progress, WhatHasPassedIsThereEvenAfterAFailure) {
  asio::thread_pool pool(1);
  Progress progress;
  progress.advance(1);
  progress.fail(std::make_exception_ptr(std::runtime_error("gone")));
  EXPECT_NO_THROW(progress.wait(1));
  EXPECT_THROW(progress.wait(2), std::runtime_error);
  EXPECT_THROW(asio::co_spawn(pool, wait_for(progress, 2), asio::use_future).get(), std::runtime_error);
}

TEST(Progress, WhatIsThrownWhileWaitingEndsTheWait) {
  Progress progress;
  const auto interrupt = [] { throw std::runtime_error("Ctrl-C"); };
  EXPECT_THROW(progress.wait(1, interrupt), std::runtime_error);
  progress.advance(1);
  EXPECT_NO_THROW(progress.wait(1, interrupt));
}

TEST(Progress, NeverGoesBack) {
  Progress progress(7);
  progress.advance(3);
  EXPECT_NO_THROW(progress.wait(7, [] { throw std::runtime_error("gone back"); }));
}

}  // namespace
}  // namespace stella
