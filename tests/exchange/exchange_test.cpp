#include "exchange/exchange.hpp"

#include <gtest/gtest.h>
#include <spdlog/sinks/base_sink.h>

#include <condition_variable>
#include <mutex>

#include "membership/member_process.hpp"

namespace stella::testing {
namespace {

PayloadPtr payload(Iteration iteration, BucketId bucket, std::string_view text) {
  PayloadHeader header;
  header.iteration = iteration;
  header.bucket = bucket;
  header.samples = 1;
  return std::make_shared<const Payload>(header, bytes_of(text));
}

ExchangeOptions three_buckets() {
  ExchangeOptions options;
  options.buckets = 3;
  options.timeout = 10s;
  return options;
}

// The exchange of one member. Verbs block the test's thread, or give back what to wait for.
class Side {
 public:
  explicit Side(Member& member, ExchangeOptions options = three_buckets()) : member_(member) {
    exchange_ = member.net().call([&] { return std::make_unique<Exchange>(member.group(), options); });
  }
  ~Side() {
    fail(Error(ErrorCode::cancelled, "the test is over"));
    member_.net().call([this] { exchange_.reset(); });
  }

  // Contributes "<rank>:<iteration>:<bucket>".
  Pending<Gathered> gather(Iteration iteration, BucketId bucket = 0) {
    auto mine = payload(iteration, bucket, text(member_.rank(), iteration, bucket));
    return member_.net().start(exchange_->all_gather(std::move(mine)));
  }
  void fail(const Error& error) {
    member_.net().call([&] { exchange_->fail(error); });
  }
  void began(Iteration iteration) {
    member_.net().call([&] { exchange_->began(iteration); });
  }
  void trainer_waits_for(Iteration iteration, std::string where = "in step()") {
    member_.net().call([&] { exchange_->trainer_waits_for(iteration, std::move(where)); });
  }
  void restart_after(Iteration iteration) {
    member_.net().call([&] { exchange_->restart_after(iteration); });
  }

  static std::string text(Rank rank, Iteration iteration, BucketId bucket) {
    return std::to_string(rank) + ":" + std::to_string(iteration) + ":" + std::to_string(bucket);
  }

 private:
  Member& member_;
  std::unique_ptr<Exchange> exchange_;
};

using Sides = std::vector<std::unique_ptr<Side>>;

Sides sides_of(Members& members, ExchangeOptions options = three_buckets()) {
  Sides sides;
  for (auto& member : members) sides.push_back(std::make_unique<Side>(*member, options));
  return sides;
}

void send(Member& from, Rank to, Bytes bytes) {
  from.net().call([&] {
    from.group().send_payload(to, std::make_shared<const Bytes>(std::move(bytes)), {1, 0});
  });
}

// What everybody contributed, in member order.
void expect_all(const Gathered& gathered, std::uint32_t world_size, Iteration iteration,
                BucketId bucket = 0) {
  EXPECT_EQ(gathered.iteration, iteration);
  ASSERT_EQ(gathered.payloads.size(), world_size);
  for (Rank rank = 0; rank < world_size; ++rank) {
    EXPECT_EQ(gathered.payloads[rank]->header().iteration, iteration);
    const auto body = gathered.payloads[rank]->body();
    EXPECT_EQ(Bytes(body.begin(), body.end()), bytes_of(Side::text(rank, iteration, bucket)));
  }
}

class Worlds : public ::testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(OneToFourMembers, Worlds, ::testing::Values(1, 2, 3, 4));

TEST_P(Worlds, EverybodyGetsEverybodysContributionInMemberOrder) {
  Members members = joined_members(GetParam());
  const Sides sides = sides_of(members);
  for (Iteration iteration = 1; iteration <= 20; ++iteration) {
    std::vector<std::pair<BucketId, Pending<Gathered>>> all;
    for (const auto& side : sides) {
      for (BucketId bucket = 0; bucket < 3; ++bucket)
        all.emplace_back(bucket, side->gather(iteration, bucket));
    }
    for (auto& [bucket, gathered] : all) expect_all(gathered.get(), GetParam(), iteration, bucket);
  }
}

TEST(Exchange, WhatArrivesEarlyIsKeptForThoseWhoComeLater) {
  Members members = joined_members(2);
  const Sides sides = sides_of(members);
  auto first = sides[1]->gather(1);
  auto second = sides[1]->gather(2);
  EXPECT_EQ(second.wait_for(50ms), std::future_status::timeout);
  expect_all(sides[0]->gather(1).get(), 2, 1);
  expect_all(sides[0]->gather(2).get(), 2, 2);
  expect_all(first.get(), 2, 1);
  expect_all(second.get(), 2, 2);
}

TEST(Exchange, AContributionMayOvertakeThePreviousOneOfItsMember) {
  Members members = joined_members(2);
  const Sides sides = sides_of(members);
  auto second = sides[0]->gather(2);
  sides[1]->gather(2).get();
  expect_all(second.get(), 2, 2);
  auto first = sides[0]->gather(1);
  expect_all(sides[1]->gather(1).get(), 2, 1);
  expect_all(first.get(), 2, 1);
  auto fourth = sides[0]->gather(4);  // the window begins after what is complete without a gap
  expect_all(sides[1]->gather(4).get(), 2, 4);
}

struct Breach {
  Iteration iteration;
  BucketId bucket;
  std::string said;
};

TEST(Exchange, WhatBreaksTheProtocolEndsTheRunAndNamesTheSender) {
  for (const Breach& breach :
       {Breach{3, 0, "outside of the window from 1 to 2"}, Breach{0, 0, "outside of the window from 1 to 2"},
        Breach{~Iteration{0}, 0, "outside of the window"}, Breach{1, 3, "there are only 3 buckets"}}) {
    Members members = joined_members(2);
    const Side side(*members[0]);
    send(*members[1], 0, payload(breach.iteration, breach.bucket, "x")->bytes());
    const Error error = members[0]->failure();
    EXPECT_EQ(error.code(), ErrorCode::protocol);
    EXPECT_NAMES(error, "member 1 (c0m1");
    EXPECT_NAMES(error, "iteration " + std::to_string(breach.iteration));
    EXPECT_NAMES(error, breach.said);
  }
}

TEST(Exchange, AnIterationThatWasGatheredBeforeIsRefused) {
  Members members = joined_members(2);
  const Sides sides = sides_of(members);
  auto theirs = sides[1]->gather(1);
  sides[0]->gather(1).get();
  theirs.get();
  send(*members[1], 0, payload(1, 0, "again")->bytes());
  EXPECT_NAMES(members[0]->failure(), "outside of the window from 2 to 3");
}

TEST(Exchange, ASecondContributionToTheSameIterationIsRefused) {
  Members members = joined_members(2);
  const Side side(*members[0]);
  send(*members[1], 0, payload(1, 2, "once")->bytes());
  send(*members[1], 0, payload(1, 2, "twice")->bytes());
  EXPECT_NAMES(members[0]->failure(), "a second time");
}

TEST(Exchange, ASecondContributionToACompleteIterationAfterAGapIsRefused) {
  Members members = joined_members(2);
  Side side(*members[0]);
  send(*members[1], 0, payload(2, 0, "1:2:0")->bytes());
  expect_all(side.gather(2).get(), 2, 2);
  send(*members[1], 0, payload(2, 0, "1:2:0")->bytes());
  EXPECT_NAMES(members[0]->failure(), "a second time");
}

TEST(Exchange, BytesThatAreNoPayloadNameTheirSender) {
  Members members = joined_members(2);
  const Side side(*members[0]);
  send(*members[1], 0, bytes_of("no payload"));
  const Error error = members[0]->failure();
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_NAMES(error, "member 1 (c0m1");
  EXPECT_NAMES(error, "version");
}

TEST(Exchange, AMemberThatLeavesWhileItIsNeededIsNamed) {
  Members members = joined_members(3);
  Side side(*members[0]);
  auto gathered = side.gather(1);
  auto leaving = members[2]->net().start(members[2]->group().leave());
  const Error error = error_of([&] { gathered.get(); });
  EXPECT_EQ(error.code(), ErrorCode::peer_lost);
  EXPECT_NAMES(error, "member 2 (c0m2");
  EXPECT_NAMES(error, "iteration 1");
}

TEST(Exchange, AMemberThatLeftBeforeIsNamedAtOnce) {
  Members members = joined_members(2);
  auto leaving = members[1]->net().start(members[1]->group().leave());
  ASSERT_TRUE(members[0]->hears_leave_of(1));
  Side side(*members[0]);
  EXPECT_NAMES(error_of([&] { side.gather(1).get(); }), "member 1 (c0m1");
}

TEST(Exchange, WhatAMemberContributedBeforeItLeftCounts) {
  Members members = joined_members(2);
  Side side(*members[0]);
  send(*members[1], 0, payload(1, 0, "1:1:0")->bytes());
  members[1]->net().start(members[1]->group().leave()).wait_for(50ms);
  expect_all(side.gather(1).get(), 2, 1);
}

TEST(Exchange, ATimeoutNamesThoseWhoAreMissing) {
  Members members = joined_members(4);
  ExchangeOptions options = three_buckets();
  options.timeout = 200ms;
  const Sides sides = sides_of(members, options);
  auto other = sides[2]->gather(1, 1);
  const Error error = error_of([&] { sides[0]->gather(1, 1).get(); });
  EXPECT_EQ(error.code(), ErrorCode::timeout);
  EXPECT_NAMES(error, "member 1 (c0m1");
  EXPECT_NAMES(error, "member 3 (c0m3");
  EXPECT_NAMES(error, "iteration 1 (bucket 1)");
  EXPECT_FALSE(contains(error.what(), "member 2")) << error.what();
  EXPECT_FALSE(contains(error.what(), "member 0")) << error.what();
}

// Lines, for a thread that waits for one of them.
class Lines : public spdlog::sinks::base_sink<std::mutex> {
 public:
  void await(const std::string& text) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(come_.wait_for(lock, 30s, [&] { return contains(text_, text); })) << text_;
  }
  std::string text() {
    std::lock_guard lock(mutex_);
    return text_;
  }

 private:
  void sink_it_(const spdlog::details::log_msg& message) override {
    text_ += std::string(message.payload.begin(), message.payload.end()) + "\n";
    come_.notify_all();
  }
  void flush_() override {}

  std::string text_;
  std::condition_variable_any come_;
};

// Two members, of whom the first writes this log.
struct LoggedWorld {
  LoggedWorld() {
    members.push_back(
        std::make_unique<Member>(quick_options(0, 2), std::make_shared<spdlog::logger>("m0", log)));
    members.push_back(std::make_unique<Member>(quick_options(1, 2)));
    const auto addresses = listen_all(members);
    for (auto& done : on_all(members, [&](Member& member) { return member.group().join(addresses); }))
      done.get();
    ExchangeOptions options = three_buckets();
    options.hint_after = 50ms;
    sides = sides_of(members, options);
  }
  std::string text() {
    sides.clear();
    members.clear();  // the log is complete
    return log->text();
  }

  std::shared_ptr<Lines> log = std::make_shared<Lines>();
  Members members;
  Sides sides;
};

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t found = 0;
  for (auto at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++found;
  return found;
}

TEST(Exchange, TheLogNamesAgainAndAgainWhoIsAwaitedButNeverWithinTwiceTheLongestWait) {
  LoggedWorld world;
  std::vector<Pending<Gathered>> waiting;
  for (const BucketId bucket : {0u, 1u}) waiting.push_back(world.sides[0]->gather(1, bucket));
  world.log->await("after 0.200 s");
  for (const BucketId bucket : {0u, 1u}) world.sides[1]->gather(1, bucket).get();
  for (auto& one : waiting) one.get();
  auto next = world.sides[0]->gather(2);
  EXPECT_EQ(next.wait_for(100ms), std::future_status::timeout);
  world.sides[1]->gather(2).get();
  next.get();
  const std::string log = world.text();
  for (const std::string waited : {"0.050 s", "0.100 s", "0.200 s"}) {
    const auto line = "after " + waited + " iteration 1 still waits for member 1 (c0m1, 127";
    EXPECT_EQ(count(log, line), 1u) << log;  // of one bucket only
  }
  EXPECT_FALSE(contains(log, "iteration 2 still waits")) << log;
}

TEST(Exchange, AMemberThatMakesAnotherCallInsteadIsNamedWithIt) {
  LoggedWorld world;
  auto save = world.members[1]->net().start(world.members[1]->group().all_gather("save", {}));
  auto step = world.sides[0]->gather(1);
  EXPECT_EQ(step.wait_for(500ms), std::future_status::timeout);
  world.sides[1]->gather(1).get();
  world.members[0]->net().run(world.members[0]->group().all_gather("save", {}));
  step.get();
  save.get();
  const std::string log = world.text();
  EXPECT_TRUE(
      contains(log, " (which waits in all_gather \"save\" (collective number 1), a call that member 0 ("))
      << log;
}

void make_first_iteration(const Sides& sides) {
  for (const auto& side : sides) side->began(1);
  auto first = sides[0]->gather(1);
  sides[1]->gather(1).get();
  first.get();
}

void expect_deadlock(Pending<Gathered>& step) {
  const Error error = error_of([&] { step.get(); });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "member 1 (c0m1, 127.0.0.1:");
  EXPECT_NAMES(error,
               ") waits in all_gather \"save\" (collective number 1), after iteration 1, for member 0 (");
  EXPECT_NAMES(error, "), which waits in step() for its part of iteration 2: all members must make");
}

// A step here waits for a member whose call waits for this one's.
TEST(Exchange, WhoWouldWaitForEachOtherForEverAreToldSo) {
  for (const bool call_first : {true, false}) {
    Members members = joined_members(2);
    const Sides sides = sides_of(members);
    make_first_iteration(sides);
    const auto call = [&] { return members[1]->net().start(members[1]->group().all_gather("save", {})); };
    Pending<std::vector<Bytes>> save;
    if (call_first) save = call();
    sides[0]->began(2);
    auto step = sides[0]->gather(2);
    EXPECT_EQ(step.wait_for(50ms), std::future_status::timeout);  // the trainer may still call it
    sides[0]->trainer_waits_for(2);
    if (!call_first) save = call();
    expect_deadlock(step);
  }
}

// Its step() has returned, as the update of iteration 2 is due later.
TEST(Exchange, WhoWouldWaitForEverOutsideOfAStepIsNotSaidToBeInOne) {
  Members members = joined_members(2);
  const Sides sides = sides_of(members);
  make_first_iteration(sides);
  sides[0]->began(2);
  auto step = sides[0]->gather(2);
  sides[0]->trainer_waits_for(1);
  auto save = members[1]->net().start(members[1]->group().all_gather("save", {}));
  EXPECT_EQ(step.wait_for(50ms), std::future_status::timeout);
  sides[0]->trainer_waits_for(2, "to read its state");
  const Error error = error_of([&] { step.get(); });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "), which waits to read its state for its part of iteration 2");
}

void await_call_of_member_1(Members& members) {
  while (!members[0]->net().call([&] { return members[0]->group().call_ahead(1); }))
    std::this_thread::yield();
}

// As in a pipeline: the contribution is made while the trainer waits already.
TEST(Exchange, WhoWouldWaitForEverIsToldWhenItContributes) {
  Members members = joined_members(2);
  const Sides sides = sides_of(members);
  make_first_iteration(sides);
  auto save = members[1]->net().start(members[1]->group().all_gather("save", {}));
  await_call_of_member_1(members);
  sides[0]->trainer_waits_for(2);
  auto step = sides[0]->gather(2);
  expect_deadlock(step);
}

// The control message overtakes what its sender contributed to the iterations that a checkpoint takes back.
TEST(Exchange, WhoLoadsAnOlderCheckpointHasBegunWhatItHadBegun) {
  Members members = joined_members(2);
  const Sides sides = sides_of(members);
  for (const auto& side : sides) side->began(5);
  sides[1]->restart_after(2);
  auto loaded = members[1]->net().start(members[1]->group().all_gather("state loaded", {}));
  await_call_of_member_1(members);
  auto step = sides[0]->gather(3);  // on its way to what member 1 expects, too
  sides[0]->trainer_waits_for(5);
  EXPECT_EQ(step.wait_for(100ms), std::future_status::timeout);
  EXPECT_EQ(members[0]->net().call([&] { return members[0]->group().failure(); }), nullptr);
}

TEST(Exchange, AMemberThatHasBegunAnIterationContributesToItWhateverItCallsThen) {
  Members members = joined_members(2);
  const Sides sides = sides_of(members);
  for (const auto& side : sides) side->began(1);
  auto save = members[1]->net().start(members[1]->group().all_gather("save", {}));
  auto step = sides[0]->gather(1);
  sides[0]->trainer_waits_for(1);
  EXPECT_EQ(step.wait_for(100ms), std::future_status::timeout);
  sides[1]->gather(1).get();
  step.get();
  members[0]->net().run(members[0]->group().all_gather("save", {}));
  save.get();
}

TEST(Exchange, WhatWasAwaitedBeforeACheckpointWasLoadedIsNotAnyMore) {
  Members members = joined_members(2);
  const Sides sides = sides_of(members);
  sides[0]->trainer_waits_for(5);
  for (const auto& side : sides) side->restart_after(1);
  auto save = members[1]->net().start(members[1]->group().all_gather("save", {}));
  auto step = sides[0]->gather(2);
  EXPECT_EQ(step.wait_for(100ms), std::future_status::timeout);
  members[0]->net().run(members[0]->group().all_gather("save", {}));
  save.get();
  sides[1]->gather(2).get();
  step.get();
}

TEST(Exchange, AMemberThatFinishesBeforeTheOthersIsNamedOnce) {
  LoggedWorld world;
  for (Iteration t = 1; t <= 3; ++t) {
    PayloadHeader header;
    header.iteration = t;
    header.level = t == 1 ? Level::active : Level::finished;
    auto step = world.sides[0]->gather(t);
    send(*world.members[1], 0, Payload(header, {}).bytes());
    step.get();
  }
  const std::string log = world.text();
  EXPECT_TRUE(contains(log, "called finish() after iteration 1, which is not the last one here")) << log;
  EXPECT_EQ(count(log, "called finish()"), 1u) << log;
}

TEST(Exchange, AFailureWakesEverybodyAndStays) {
  Members members = joined_members(2);
  Side side(*members[0]);
  auto first = side.gather(1, 0);
  auto second = side.gather(1, 1);
  side.fail(Error(ErrorCode::peer_lost, "member 7 is gone"));
  side.fail(Error(ErrorCode::io, "later"));
  EXPECT_NAMES(error_of([&] { first.get(); }), "member 7 is gone");
  EXPECT_NAMES(error_of([&] { second.get(); }), "member 7 is gone");
  EXPECT_NAMES(error_of([&] { side.gather(2).get(); }), "member 7 is gone");
}

TEST(Exchange, NothingCanBeGatheredOnceThisMemberHasStopped) {
  Members members = joined_members(2);
  Side side(*members[0]);
  members[0]->net().run(members[0]->group().abort("enough"));
  EXPECT_EQ(error_of([&] { side.gather(1).get(); }).code(), ErrorCode::cancelled);
}

TEST(Exchange, GoesOnAfterTheIterationOfACheckpoint) {
  Members members = joined_members(2);
  const Sides sides = sides_of(members);
  for (const auto& side : sides) side->restart_after(100);
  auto theirs = sides[1]->gather(101);
  expect_all(sides[0]->gather(101).get(), 2, 101);
  theirs.get();
  send(*members[1], 0, payload(100, 0, "x")->bytes());
  EXPECT_NAMES(members[0]->failure(), "outside of the window from 102 to 103");
}

}  // namespace
}  // namespace stella::testing
