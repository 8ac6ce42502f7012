// Where the time of a step goes.
#pragma once

#include <chrono>
#include <mutex>

#include "stella/engine.hpp"

namespace stella {

// Sums of seconds per stage, named by the fields of EngineStats. Any thread may call anything.
class StageTimes {
 public:
  using Stage = double EngineStats::*;
  using Clock = std::chrono::steady_clock;

  // The stage took from `begin` until now.
  void add(Stage stage, Clock::time_point begin) {
    const std::chrono::duration<double> taken = Clock::now() - begin;
    std::lock_guard lock(mutex_);
    sums_.*stage += taken.count();
  }

  // Runs `work`, returns what it returns and adds its time.
  template <class Work>
  auto time(Stage stage, Work work) {
    struct AddAtEnd {
      ~AddAtEnd() { times.add(stage, begin); }
      StageTimes& times;
      Stage stage;
      Clock::time_point begin;
    } add_at_end{*this, stage, Clock::now()};
    return work();
  }

  void read(EngineStats& stats) const {
    std::lock_guard lock(mutex_);
    for (const Stage stage :
         {&EngineStats::step_copy, &EngineStats::step_wait, &EngineStats::step_publish,
          &EngineStats::contribute, &EngineStats::exchange, &EngineStats::merge, &EngineStats::apply}) {
      stats.*stage = sums_.*stage;
    }
  }

 private:
  mutable std::mutex mutex_;  // guards what follows
  EngineStats sums_;
};

}  // namespace stella
