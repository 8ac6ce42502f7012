// What the pipeline promises to a rule (engine/rule.hpp), seen by a rule that computes nothing.
#include "engine/pipeline.hpp"

#include <gtest/gtest.h>

#include <atomic>
#include <future>

#include "engine/step.hpp"
#include "membership/member_process.hpp"

namespace stella::testing {
namespace {

using namespace std::chrono_literals;

// Its publish(0) gives apply(1) every chance to come too early.
class WatchfulRule : public Rule {
 public:
  std::size_t buckets() const override { return 1; }
  std::optional<std::uint32_t> copy(BucketId, const StepInput&) override { return std::nullopt; }
  void drop(BucketId, const StepInput&) override {}
  PayloadPtr contribute(BucketId bucket, const Step& step) override {
    PayloadHeader header;
    header.bucket = bucket;
    header.iteration = step.iteration;
    return std::make_shared<const Payload>(header, Bytes{});
  }
  Update merge(BucketId, const Gathered& all) override {
    Update update;
    update.iteration = all.iteration;
    return update;
  }
  void apply(BucketId, Update update) override {
    EXPECT_FALSE(publishing_) << "apply " << update.iteration;
    if (update.iteration == 1) applied_.set_value();
  }
  void publish(BucketId, Iteration t, std::span<float* const>) override {
    publishing_ = true;
    if (t == 0) applied_.get_future().wait_for(200ms);
    publishing_ = false;
  }
  std::uint64_t digest() const override { return 0; }

 private:
  std::atomic<bool> publishing_ = false;
  std::promise<void> applied_;
};

TEST(Pipeline, TheFirstUpdateIsNotAppliedWhileTheTrainerTakesWhatWasThereBefore) {
  WatchfulRule rule;
  Members alone = joined_members(1);
  TestThread& net = alone[0]->net();
  auto exchange =
      net.call([&] { return std::make_unique<Exchange>(alone[0]->group(), ExchangeOptions{.window = 4}); });
  {
    CpuPool cpu(2);
    Pipeline pipeline(cpu, net.io().get_executor(), *exchange, rule, {1, 1}, [](const Error&) {});
    for (Iteration t = 1; t <= 3; ++t) {
      pipeline.start(std::make_shared<Step>(t, Level::active, StepInput{}, 1));
      pipeline.take(t - 1, {}, "in step()");
    }
    pipeline.quiesce(3, "at the end");
  }
  net.call([&] { exchange.reset(); });
}

}  // namespace
}  // namespace stella::testing
