#include "net/reminder.hpp"

#include <gtest/gtest.h>

#include <asio/io_context.hpp>
#include <optional>
#include <vector>

namespace stella::testing {
namespace {

using namespace std::chrono_literals;

TEST(Reminder, ComesAfterTwiceAsLongEachTimeUntilItIsDestroyed) {
  asio::io_context io;
  std::vector<std::chrono::milliseconds> passed;
  std::optional<Reminder> reminder;
  const auto start = std::chrono::steady_clock::now();
  reminder.emplace(io.get_executor(), 10ms, [&](std::chrono::milliseconds now) {
    EXPECT_GE(std::chrono::steady_clock::now() - start, now);
    passed.push_back(now);
    if (passed.size() == 4) reminder.reset();
  });
  io.run();  // ends, as nothing is to come
  EXPECT_EQ(passed, (std::vector<std::chrono::milliseconds>{10ms, 20ms, 40ms, 80ms}));
}

}  // namespace
}  // namespace stella::testing
