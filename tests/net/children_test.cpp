#include "net/children.hpp"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <functional>

namespace stella::testing {
namespace {

bool is_open(int descriptor) { return ::fcntl(descriptor, F_GETFD) >= 0; }

// What `question` answers in a forked child.
bool in_a_child(const std::function<bool()>& question) {
  const pid_t child = ::fork();
  if (child == 0) ::_exit(question() ? 1 : 0);
  int status = -1;
  EXPECT_EQ(::waitpid(child, &status, 0), child);
  EXPECT_TRUE(WIFEXITED(status));
  return WEXITSTATUS(status) == 1;
}

class Children : public ::testing::Test {
 protected:
  void SetUp() override { ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends_.data()), 0); }
  void TearDown() override {
    for (const int end : ends_) ::close(end);
  }
  std::array<int, 2> ends_{};
};

TEST_F(Children, AForkedOneHasNoCopyOfTheSocketAndTheParentKeepsIts) {
  keep_from_children(ends_[0]);
  EXPECT_FALSE(in_a_child([&] { return is_open(ends_[0]); }));
  EXPECT_TRUE(in_a_child([&] { return is_open(ends_[1]); }));
  EXPECT_FALSE(in_a_child([&] { return is_open(ends_[0]); }));
  EXPECT_TRUE(is_open(ends_[0]));
}

// The point of it all.
TEST_F(Children, TheOtherEndSeesTheParentCloseWhileAChildLives) {
  keep_from_children(ends_[0]);
  const pid_t child = ::fork();
  if (child == 0) {
    ::close(ends_[1]);
    ::pause();
    ::_exit(0);
  }
  ::close(ends_[0]);
  const timeval limit{.tv_sec = 10, .tv_usec = 0};
  ::setsockopt(ends_[1], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  char byte = 0;
  EXPECT_EQ(::recv(ends_[1], &byte, 1, 0), 0);  // the end; an open socket would say EAGAIN after the limit
  ::kill(child, SIGKILL);
  ::waitpid(child, nullptr, 0);
  ends_[0] = ::dup(ends_[1]);
}

TEST_F(Children, AnotherSocketOrFileWithTheSameNumberIsLeftAlone) {
  keep_from_children(ends_[0]);
  ASSERT_EQ(::dup2(ends_[1], ends_[0]), ends_[0]);
  EXPECT_TRUE(in_a_child([&] { return is_open(ends_[0]); }));
  const int file = ::open("/dev/null", O_RDONLY);
  ASSERT_EQ(::dup2(file, ends_[0]), ends_[0]);
  ::close(file);
  EXPECT_TRUE(in_a_child([&] { return is_open(ends_[0]); }));
}

TEST_F(Children, ExecutedProgramsGetNoCopyEither) {
  keep_from_children(ends_[0]);
  EXPECT_EQ(::fcntl(ends_[0], F_GETFD), FD_CLOEXEC);
}

TEST_F(Children, ADescriptorThatIsNoneIsNoMistake) {
  keep_from_children(-1);
  keep_from_children(1'000'000);
  EXPECT_TRUE(in_a_child([&] { return is_open(ends_[0]); }));
}

}  // namespace
}  // namespace stella::testing
