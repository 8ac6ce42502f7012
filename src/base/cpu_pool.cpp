#include "base/cpu_pool.hpp"

#include <asio/post.hpp>
#include <cfenv>
#include <tuple>
#include <utility>

namespace stella {

CpuPool::CpuPool(std::size_t threads) : pool_(threads) {}

CpuPool::~CpuPool() { pool_.join(); }

bool CpuPool::Later::operator()(const Waiting& a, const Waiting& b) const {
  return std::tie(a.priority, a.ticket) > std::tie(b.priority, b.ticket);
}

asio::awaitable<void> CpuPool::enter(Priority priority) {
  return suspend<ResumeBy::dispatch>([this, priority](Resume resume) {
    {
      std::lock_guard lock(mutex_);
      queue_.push({priority, tickets_++, std::move(resume)});
    }
    // One turn per waiting coroutine: whoever gets a thread takes the most urgent, not necessarily this one.
    asio::post(pool_, [this] { run_most_urgent(); });
  });
}

void CpuPool::run_most_urgent() {
  // A thread inherits how its maker rounds and whether it flushes denormals (torch.set_flush_denormal).
  std::fesetenv(FE_DFL_ENV);
  Resume resume;
  {
    std::lock_guard lock(mutex_);
    resume = queue_.top().resume;
    queue_.pop();
  }
  resume(nullptr);
}

}  // namespace stella
