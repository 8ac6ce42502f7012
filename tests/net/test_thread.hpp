// The network thread that every member has, and verbs for tests.
#pragma once

#include <gtest/gtest.h>
#include <spdlog/sinks/null_sink.h>

#include <asio/awaitable.hpp>
#include <asio/co_spawn.hpp>
#include <asio/use_future.hpp>
#include <chrono>
#include <cstdlib>
#include <future>
#include <memory>
#include <string>
#include <utility>

#include "base/log.hpp"
#include "net/net_thread.hpp"
#include "net/secret.hpp"
#include "stella/error.hpp"

namespace stella::testing {

using namespace std::chrono_literals;

class TestThread;

// What a coroutine on another thread will return or throw.
template <class T>
class Pending {
 public:
  Pending() = default;
  Pending(TestThread& thread, std::future<T> future) : thread_(&thread), future_(std::move(future)) {}
  T get();
  void wait() { future_.wait(); }
  bool valid() const { return future_.valid(); }
  std::future_status wait_for(std::chrono::milliseconds time) { return future_.wait_for(time); }

 private:
  TestThread* thread_ = nullptr;
  std::future<T> future_;
};

class TestThread : public NetThread {
 public:
  template <class T>
  Pending<T> start(asio::awaitable<T> task) {
    return Pending<T>(*this, asio::co_spawn(io(), std::move(task), asio::use_future));
  }
  template <class T>
  T run(asio::awaitable<T> task) {
    return start(std::move(task)).get();
  }
};

// An exception is freed by whichever thread lets go of it last, and ThreadSanitizer cannot see how libstdc++
// counts. So the other thread lets go first.
template <class T>
T Pending<T>::get() {
  future_.wait();
  thread_->call([] {});
  return future_.get();
}

// Silent unless STELLA_LOG is set.
inline Logger test_logger(const std::string& name) {
  if (std::getenv("STELLA_LOG") != nullptr) return make_logger(name);
  return std::make_shared<spdlog::logger>(name, std::make_shared<spdlog::sinks::null_sink_mt>());
}

inline RunSecret test_secret() {
  return RunSecret::from_text("a secret of thirty-two characters, or a few more");
}
inline RunSecret other_secret() {
  return RunSecret::from_text("another secret of thirty-two characters or more");
}

// What `action` throws; a test failure if it throws nothing.
template <class F>
Error error_of(F action) {
  try {
    action();
  } catch (const Error& error) {
    return error;
  }
  ADD_FAILURE() << "no error was thrown";
  return Error(ErrorCode::io, "no error");
}

inline bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

// `error` is evaluated twice.
#define EXPECT_NAMES(error, part) \
  EXPECT_TRUE(::stella::testing::contains((error).what(), part)) << "the sentence: " << (error).what()

}  // namespace stella::testing
