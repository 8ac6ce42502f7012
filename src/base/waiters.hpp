// Suspended coroutines, kept until something happens. The building block of Event, Progress and CpuPool.
#pragma once

#include <asio/associated_executor.hpp>
#include <asio/async_result.hpp>
#include <asio/awaitable.hpp>
#include <asio/dispatch.hpp>
#include <asio/post.hpp>
#include <asio/use_awaitable.hpp>
#include <exception>
#include <functional>
#include <memory>
#include <utility>

namespace stella {

// Resumes one suspended coroutine on its own executor, throwing there if the pointer is not null. Call once.
using Resume = std::function<void(std::exception_ptr)>;

// Where a resumed coroutine starts to run.
enum class ResumeBy {
  post,      // behind whatever its executor has queued; the one who resumes goes on at once
  dispatch,  // inside the call of Resume if that already runs on its executor
};

// Suspends the calling coroutine and hands its Resume to `keep`, which must store it or call it.
template <ResumeBy by = ResumeBy::post, class Keep>
asio::awaitable<void> suspend(Keep keep) {
  auto initiate = [](auto handler, Keep keep_resume) {
    auto shared = std::make_shared<decltype(handler)>(std::move(handler));
    keep_resume(Resume([shared](std::exception_ptr error) {
      auto executor = asio::get_associated_executor(*shared);
      auto go = [shared, error] { std::move (*shared)(error); };
      if constexpr (by == ResumeBy::post) {
        asio::post(executor, go);
      } else {
        asio::dispatch(executor, go);
      }
    }));
  };
  co_await asio::async_initiate<const asio::use_awaitable_t<>, void(std::exception_ptr)>(
      initiate, asio::use_awaitable, std::move(keep));
}

}  // namespace stella
