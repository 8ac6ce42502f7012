#include "net/children.hpp"

#include <fcntl.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace stella {
namespace {

// The inode of the socket that each descriptor was when it was noted; 0: none. Of the process, as descriptors
// are. No lock guards it: the thread that holds one does not exist in the child.
std::array<std::atomic<std::uint64_t>, 65'536> noted;
std::atomic<int> end = 0;  // above the highest that was noted

// 0 if it is no socket.
std::uint64_t inode(int descriptor) {
  struct stat status;
  return ::fstat(descriptor, &status) == 0 && S_ISSOCK(status.st_mode) ? status.st_ino : 0;
}

// In the child of a process with threads: calls nothing but what a signal handler may.
void close_copies() {
  for (int descriptor = 0; descriptor < end; ++descriptor) {
    const std::uint64_t was = noted[static_cast<std::size_t>(descriptor)].exchange(0);
    if (was != 0 && was == inode(descriptor)) ::close(descriptor);
  }
}

}  // namespace

void keep_from_children(int socket) {
  [[maybe_unused]] static const int once = ::pthread_atfork(nullptr, nullptr, close_copies);
  ::fcntl(socket, F_SETFD, FD_CLOEXEC);
  if (socket < 0 || static_cast<std::size_t>(socket) >= noted.size()) return;
  noted[static_cast<std::size_t>(socket)] = inode(socket);
  int highest = end;
  while (highest <= socket && !end.compare_exchange_weak(highest, socket + 1)) {
  }
}

}  // namespace stella
