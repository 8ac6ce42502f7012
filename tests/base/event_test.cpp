#include "base/event.hpp"

#include <gtest/gtest.h>

#include <asio/co_spawn.hpp>
#include <asio/thread_pool.hpp>
#include <asio/use_future.hpp>
#include <stdexcept>
#include <thread>

namespace stella {
namespace {

asio::awaitable<void> wait_for(Event& event) { co_await event.wait(); }

TEST(Event, WakesThoseWhoWaitAndThoseWhoComeLater) {
  asio::thread_pool pool(2);
  Event event;
  auto early = asio::co_spawn(pool, wait_for(event), asio::use_future);
  event.set();
  early.get();
  asio::co_spawn(pool, wait_for(event), asio::use_future).get();
}

TEST(Event, AFailureReachesThoseWhoWaitAndThoseWhoComeLater) {
  asio::thread_pool pool(2);
  Event event;
  auto early = asio::co_spawn(pool, wait_for(event), asio::use_future);
  event.fail(std::make_exception_ptr(std::runtime_error("gone")));
  EXPECT_THROW(early.get(), std::runtime_error);
  EXPECT_THROW(asio::co_spawn(pool, wait_for(event), asio::use_future).get(), std::runtime_error);
}

TEST(Event, TheFirstOutcomeStays) {
  asio::thread_pool pool(1);
  Event event;
  event.set();
  event.fail(std::make_exception_ptr(std::runtime_error("too late")));
  EXPECT_NO_THROW(asio::co_spawn(pool, wait_for(event), asio::use_future).get());
}

TEST(Event, ThousandsOfRacesBetweenSetAndWaitLoseNobody) {
  asio::thread_pool pool(2);
  for (int round = 0; round < 2000; ++round) {
    Event event;
    auto waiter = asio::co_spawn(pool, wait_for(event), asio::use_future);
    event.set();
    waiter.get();
  }
}

}  // namespace
}  // namespace stella
