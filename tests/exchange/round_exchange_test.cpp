#include "exchange/round_exchange.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <condition_variable>
#include <mutex>

#include "membership/member_process.hpp"

namespace stella::testing {
namespace {

constexpr auto kPatience = 200ms;

PayloadPtr payload(Rank rank, Iteration round, Level level = Level::active) {
  PayloadHeader header;
  header.iteration = round;
  header.samples = 1;
  header.level = level;
  return std::make_shared<const Payload>(header,
                                         bytes_of(std::to_string(rank) + ":" + std::to_string(round)));
}

// Who took part: "0:3 1:3 -".
std::string who(const Gathered& gathered) {
  std::string all;
  for (const auto& payload : gathered.payloads) {
    if (!all.empty()) all += " ";
    if (!payload)
      all += "-";
    else
      for (const std::byte byte : payload->body()) all += static_cast<char>(byte);
  }
  return all;
}

// The exchange of one member, and what its handlers were told.
class Side {
 public:
  explicit Side(Member& member) : member_(member) {
    ExchangeOptions options;
    options.window = 6;
    options.timeout = 10s;
    RoundExchange::Handlers handlers{
        [this] { note([&] { left_out_ = true; }); },
        [this](Iteration from) { note([&] { listens_from_ = from; }); },
        [this](Gathered round) { note([&] { heard_.push_back(std::move(round)); }); },
        [this](std::span<const std::byte> part) {
          note([&] { weights_.emplace_back(part.begin(), part.end()); });
        }};
    exchange_ = member.net().call([&] {
      return std::make_unique<RoundExchange>(member.net().io().get_executor(), member.group(), options,
                                             kPatience, std::move(handlers));
    });
  }
  ~Side() {
    member_.net().call([this] { exchange_->fail(Error(ErrorCode::cancelled, "the test is over")); });
    member_.net().call([this] { exchange_.reset(); });
  }

  Pending<Gathered> gather(Iteration round, Level level = Level::active) {
    return member_.net().start(exchange_->all_gather(payload(member_.rank(), round, level)));
  }
  template <class F>
  auto on_net(F function) {
    return member_.net().call([&] { return function(*exchange_); });
  }
  Member& member() { return member_; }

  void await_left_out() {
    await([&] { return left_out_; });
  }
  Iteration await_listening() {
    await([&] { return listens_from_ != 0; });
    return listens_from_;
  }
  std::vector<Gathered> await_heard(std::size_t rounds) {
    await([&] { return heard_.size() >= rounds; });
    std::lock_guard lock(mutex_);
    return heard_;
  }
  std::vector<Bytes> await_weights(std::size_t parts) {
    await([&] { return weights_.size() >= parts; });
    std::lock_guard lock(mutex_);
    return weights_;
  }

 private:
  template <class Change>
  void note(Change change) {
    std::lock_guard lock(mutex_);
    change();
    told_.notify_all();
  }
  template <class Told>
  void await(Told told) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(told_.wait_for(lock, 10s, told));
  }

  Member& member_;
  std::unique_ptr<RoundExchange> exchange_;
  std::mutex mutex_;  // guards what follows
  std::condition_variable told_;
  bool left_out_ = false;
  Iteration listens_from_ = 0;
  std::vector<Gathered> heard_;
  std::vector<Bytes> weights_;
};

struct World {
  explicit World(std::uint32_t size) : members(joined_members(size)) {
    for (auto& member : members) sides.push_back(std::make_unique<Side>(*member));
  }
  // Those members gather that round; who took part, as each of them sees it.
  std::vector<Gathered> round(Iteration round, std::initializer_list<Rank> ranks) {
    std::vector<Pending<Gathered>> pending;
    for (const Rank rank : ranks) pending.push_back(sides[rank]->gather(round));
    std::vector<Gathered> all;
    for (auto& one : pending) all.push_back(one.get());
    return all;
  }
  Side& operator[](Rank rank) { return *sides[rank]; }

  Members members;
  std::vector<std::unique_ptr<Side>> sides;
};

TEST(RoundExchange, EverybodyGetsEverybodysContributionInMemberOrder) {
  World world(4);
  for (Iteration round = 1; round <= 20; ++round) {
    const std::string t = ":" + std::to_string(round);
    for (const Gathered& gathered : world.round(round, {2, 0, 3, 1})) {
      EXPECT_EQ(gathered.iteration, round);
      EXPECT_EQ(who(gathered), "0" + t + " 1" + t + " 2" + t + " 3" + t);
    }
  }
}

TEST(RoundExchange, TwoRoundsMayBeUnderWay) {
  World world(2);
  auto first = world[0].gather(1), second = world[0].gather(2);
  auto other = world[1].gather(2);
  world[1].gather(1).get();
  for (auto* round : {&first, &second, &other}) round->get();
}

class LeftOut : public ::testing::TestWithParam<Rank> {};
INSTANTIATE_TEST_SUITE_P(TheCoordinatorOrAnother, LeftOut, ::testing::Values(0u, 1u, 2u));

TEST_P(LeftOut, AMemberThatContributesNothingIsLeftOutAndToldSo) {
  World world(3);
  const Rank out = GetParam(), a = out == 0 ? 1 : 0, b = out == 2 ? 1 : 2;
  world.round(1, {0, 1, 2});
  const auto begin = std::chrono::steady_clock::now();
  for (const Gathered& gathered : world.round(2, {a, b})) EXPECT_EQ(gathered.payloads[out], nullptr);
  EXPECT_GE(std::chrono::steady_clock::now() - begin, kPatience);
  for (const Gathered& gathered : world.round(3, {a, b})) EXPECT_EQ(gathered.payloads[out], nullptr);
  world[out].await_left_out();
  EXPECT_EQ(who(world[out].gather(2).get()), "- - -");  // its trainer may still begin it
}

TEST_P(LeftOut, AMemberThatWasLeftOutHearsAllRoundsFromOneOnAndThenContributesAgain) {
  World world(3);
  const Rank out = GetParam(), a = out == 0 ? 1 : 0, b = out == 2 ? 1 : 2;
  world.round(1, {a, b});
  world[out].await_left_out();
  world[out].on_net([](RoundExchange& exchange) { exchange.rejoin(); });
  Iteration round = 2;
  std::vector<Gathered> of_a;
  const auto next = [&] { of_a.push_back(world.round(round++, {a, b}).front()); };
  for (int i = 0; i < 8; ++i) next();
  const Iteration from = world[out].await_listening();
  EXPECT_LE(from, 8u);
  const auto heard = world[out].await_heard(round - from);
  for (std::size_t i = 0; i < heard.size(); ++i) {
    EXPECT_EQ(heard[i].iteration, from + i);
    EXPECT_EQ(who(heard[i]), who(of_a[from + i - 2]));
  }
  // The lowest member tells it the weights as they are before that round: once.
  for (const Gathered& gathered : of_a)
    EXPECT_EQ(gathered.newcomers,
              gathered.iteration + 1 == from ? std::vector<Rank>{out} : std::vector<Rank>{});

  world[out].on_net([](RoundExchange& exchange) { exchange.ready(); });
  std::optional<Iteration> admitted;
  for (int i = 0; !admitted && i < 100; ++i) {
    next();
    admitted = world[out].on_net([](RoundExchange& exchange) { return exchange.admitted_from(); });
  }
  ASSERT_TRUE(admitted);
  while (round < *admitted) next();
  world[out].await_heard(*admitted - from);
  world[out].on_net([](RoundExchange& exchange) { exchange.take_part(); });
  for (; round < *admitted + 5; ++round) {
    for (const Gathered& gathered : world.round(round, {0, 1, 2}))
      EXPECT_NE(gathered.payloads[out], nullptr) << who(gathered);
  }
}

// Over a link that was cut, for example, while its sender has come back over another one.
TEST(RoundExchange, APayloadOfARoundThatIsOverIsNoBreachWheneverItComes) {
  World world(3);
  for (Iteration round = 1; round <= 5; ++round) world.round(round, {0, 1, 2});
  const auto late = std::make_shared<const Bytes>(payload(1, 2)->bytes());
  world.members[1]->net().call([&] { world.members[1]->group().send_payload(0, late, {2, 0}); });
  for (Iteration round = 6; round <= 8; ++round) world.round(round, {0, 1, 2});
}

TEST(RoundExchange, ACoordinatorThatIsOutLeavesOutOthersToo) {
  World world(4);
  world.round(1, {1, 2, 3});
  world[0].await_left_out();
  world.round(2, {1, 2, 3});
  for (const Gathered& gathered : world.round(3, {1, 2})) EXPECT_EQ(who(gathered), "- 1:3 2:3 -");
  world[3].await_left_out();
}

// As all that evaluate together do, the slower ones later.
TEST(RoundExchange, WhoWaitsInACallIsGivenLonger) {
  World world(3);
  auto call = world.members[2]->net().start(world.members[2]->group().all_gather("consensus", {}));
  auto a = world[0].gather(1), b = world[1].gather(1);
  EXPECT_EQ(a.wait_for(4 * kPatience), std::future_status::timeout);
  EXPECT_EQ(who(a.get()), "0:1 1:1 -");  // but not for ever
  b.get();
}

TEST(RoundExchange, AMemberMayAskToHearTheRoundsOnceMore) {
  World world(3);
  world.round(1, {0, 1});
  world[2].await_left_out();
  Iteration round = 2;
  for (int again = 0; again < 3; ++again) {
    world[2].on_net([](RoundExchange& exchange) { exchange.rejoin(); });
    std::size_t newcomers = 0;
    // What it asks for may come some rounds later.
    for (int i = 0; i < 10 || (newcomers == 0 && i < 10'000); ++i)
      newcomers += world.round(round++, {0, 1}).front().newcomers.size();
    EXPECT_EQ(newcomers, 1u) << again;  // it is told the weights each time
  }
}

// As where a link between two sites was cut.
TEST(RoundExchange, TwoMembersMayComeBackAtATime) {
  World world(4);
  world.round(1, {0, 1});
  Iteration round = 2;
  std::vector<Iteration> from(4, 0), admitted(4, 0), heard(4, 0);
  for (const Rank rank : {2u, 3u}) {
    world[rank].await_left_out();
    world[rank].on_net([](RoundExchange& exchange) { exchange.rejoin(); });
    world.round(round++, {0, 1});  // so that one is a commit behind the other one
  }
  for (int i = 0; i < 6; ++i) world.round(round++, {0, 1});
  for (const Rank rank : {2u, 3u}) {
    from[rank] = world[rank].await_listening();
    world[rank].await_heard(round - from[rank]);
    world[rank].on_net([](RoundExchange& exchange) { exchange.ready(); });
    world.round(round++, {0, 1});
  }
  const auto both_admitted = [&] {
    for (const Rank rank : {2u, 3u})
      admitted[rank] =
          world[rank].on_net([](RoundExchange& exchange) { return exchange.admitted_from().value_or(0); });
    return admitted[2] != 0 && admitted[3] != 0;
  };
  for (; !both_admitted() || round < std::min(admitted[2], admitted[3]); ++round) {
    ASSERT_TRUE(admitted[2] == 0 || round < admitted[2]) << "the other one is not admitted yet";
    world.round(round, {0, 1});
  }
  const Rank first = admitted[2] <= admitted[3] ? 2 : 3, second = 5 - first;
  const auto comes_back = [&](Rank rank) {
    world[rank].await_heard(admitted[rank] - from[rank]);
    world[rank].on_net([](RoundExchange& exchange) { exchange.take_part(); });
  };
  comes_back(first);
  for (; round < admitted[second]; ++round) world.round(round, {0, 1, first});
  comes_back(second);
  for (const Gathered& gathered : world.round(round, {0, 1, 2, 3}))
    EXPECT_EQ(std::ranges::count(gathered.payloads, nullptr), 0) << who(gathered);
}

TEST(RoundExchange, OneOfTwoIsWaitedFor) {
  World world(2);
  auto first = world[0].gather(1);
  EXPECT_EQ(first.wait_for(3 * kPatience), std::future_status::timeout);
  world[1].gather(1).get();
  EXPECT_EQ(who(first.get()), "0:1 1:1");
}

// Their training is over: they have nothing to win by going on without it.
TEST(RoundExchange, WhoOnlyWaitsForTheEndOfAllLeavesNobodyOut) {
  World world(3);
  auto first = world[0].gather(1, Level::finished), second = world[1].gather(1, Level::finished);
  EXPECT_EQ(first.wait_for(3 * kPatience), std::future_status::timeout);
  world[2].gather(1).get();
  EXPECT_EQ(who(first.get()), "0:1 1:1 2:1");
  second.get();
}

TEST(RoundExchange, WeightsAreForThoseWhoAreOut) {
  World world(3);
  world.round(1, {0, 1});
  world[2].await_left_out();
  const std::vector<std::shared_ptr<const Bytes>> parts{std::make_shared<const Bytes>(bytes_of("one")),
                                                        std::make_shared<const Bytes>(bytes_of("two"))};
  for (const Rank to : {1u, 2u})
    world.members[0]->net().call([&] { world.members[0]->group().send_weights(to, parts); });
  EXPECT_EQ(world[2].await_weights(2), (std::vector<Bytes>{bytes_of("one"), bytes_of("two")}));
  world.round(2, {0, 1});
}

void send(Member& from, Rank to, RoundMessageKind kind) {
  const auto bytes = std::make_shared<const Bytes>(encode(round_message(kind, 1, 3)));
  from.net().call([&] { from.group().send_round(to, bytes); });
}

TEST(RoundExchange, OnlyTheCoordinatorDecidesAndOnlyItIsTold) {
  for (const auto kind : {RoundMessageKind::proposal, RoundMessageKind::commit}) {
    World world(3);
    send(*world.members[1], 2, kind);
    const Error error = world.members[2]->failure();
    EXPECT_EQ(error.code(), ErrorCode::protocol);
    EXPECT_NAMES(error, "member 1 (c0m1");
  }
  for (const auto kind : {RoundMessageKind::holds, RoundMessageKind::rejoins, RoundMessageKind::ready}) {
    World world(3);
    send(*world.members[0], 2, kind);
    EXPECT_NAMES(world.members[2]->failure(), "member 0 (c0m0");
  }
}

TEST(RoundExchange, ACommitOfAWrongRoundNamesTheCoordinator) {
  World world(3);
  RoundMessage commit = round_message(RoundMessageKind::commit, 5, 3);
  const auto bytes = std::make_shared<const Bytes>(encode(commit));
  world.members[0]->net().call([&] { world.members[0]->group().send_round(1, bytes); });
  const Error error = world.members[1]->failure();
  EXPECT_NAMES(error, "member 0 (c0m0");
  EXPECT_NAMES(error, "a commit of round 5 in place of 1");
}

TEST(RoundExchange, AMemberThatIsOutAndWaitsInACallIsADeadlockForWhoWaitsForItsRounds) {
  World world(3);
  world.round(1, {0, 1});
  const auto deadlock = [&] {
    return world[0].on_net([](RoundExchange& exchange) { return exchange.deadlock("in finish()"); });
  };
  EXPECT_FALSE(deadlock());
  auto call = world.members[2]->net().start(world.members[2]->group().all_gather("mean", {}));
  while (!deadlock()) std::this_thread::yield();
  EXPECT_NAMES(*deadlock(), "member 2 (c0m2");
  EXPECT_NAMES(*deadlock(), ") waits in all_gather \"mean\" (collective number 1) for member 0 (");
  EXPECT_NAMES(*deadlock(), "), which waits in finish() for rounds of both");
}

}  // namespace
}  // namespace stella::testing
