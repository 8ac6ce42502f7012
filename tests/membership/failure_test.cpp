#include <gtest/gtest.h>

#include "membership/control.hpp"
#include "membership/fake_member.hpp"
#include "membership/farewell.hpp"
#include "membership/member_process.hpp"

namespace stella::testing {
namespace {

using Clock = std::chrono::steady_clock;

TEST(Failure, AKilledMemberIsNamedByEverySurvivorAtOnce) {
  Members members = joined_members(4);
  const auto start = Clock::now();
  members[2]->vanish();
  for (Rank survivor : {0u, 1u, 3u}) {
    const Error error = members[survivor]->failure();
    EXPECT_EQ(error.code(), ErrorCode::peer_lost);
    EXPECT_NAMES(error, "member 2 (c0m2, 127.0.0.1:");
    EXPECT_NAMES(error, "without leaving");
  }
  EXPECT_LT(Clock::now() - start, 1s);
}

TEST(Failure, OnceTrainingHasBegunTheIterationIsNamedAndHowToGoOn) {
  Members members = joined_members(3);
  for (auto& member : members) member->net().call([&] { member->group().set_begun(5); });
  auto pending = members[0]->net().start(members[0]->group().barrier("never"));
  members[2]->vanish();
  EXPECT_NAMES(error_of([&] { pending.get(); }), " (in iteration 5); to go on, start all members again");
}

TEST(Failure, AFrozenMemberIsNamedByEverySurvivorWithinTheTimeout) {
  Members members;
  for (Rank rank = 0; rank < 3; ++rank) {
    GroupOptions options = quick_options(rank, 3);
    options.peer_timeout = 800ms;
    members.push_back(std::make_unique<Member>(std::move(options)));
  }
  const auto addresses = listen_all(members);
  for (auto& done : on_all(members, [&](Member& member) { return member.group().join(addresses); }))
    done.get();
  const auto start = Clock::now();
  asio::post(members[1]->net().io(), [] { std::this_thread::sleep_for(2s); });
  for (Rank survivor : {0u, 2u}) {
    const Error error = members[survivor]->failure();
    EXPECT_EQ(error.code(), ErrorCode::peer_lost);
    EXPECT_NAMES(error, "member 1 (c0m1");
    EXPECT_NAMES(error, "sent nothing for");
    EXPECT_NAMES(error, "limit 0.8 s");
  }
  EXPECT_LT(Clock::now() - start, 1500ms);
  const Error own = members[1]->failure();  // the frozen one learns why the others gave it up
  EXPECT_NAMES(own, "member 1 (c0m1");
  EXPECT_NAMES(own, "sent nothing for");
}

TEST(Failure, MembersThatGiveOneAnotherUpAtDifferentTimesStayConnectedWhileTheyAreIdle) {
  Members members;
  const std::chrono::milliseconds timeouts[] = {500ms, 10s, 60s};
  for (Rank rank = 0; rank < 3; ++rank) {
    GroupOptions options = quick_options(rank, 3);
    options.peer_timeout = timeouts[rank];
    members.push_back(std::make_unique<Member>(std::move(options)));
  }
  const auto addresses = listen_all(members);
  for (auto& done : on_all(members, [&](Member& member) { return member.group().join(addresses); }))
    done.get();
  std::this_thread::sleep_for(5 * timeouts[0]);
  for (auto& done : on_all(members, [](Member& member) { return member.group().barrier("still here"); }))
    done.get();
}

TEST(Failure, ThePendingAndLaterCallsOfSurvivorsThrowIt) {
  Members members = joined_members(3);
  Bytes data(10);
  auto barrier = members[0]->net().start(members[0]->group().barrier("a"));
  auto broadcast = members[1]->net().start(members[1]->group().broadcast("a", 2, data));
  members[2]->vanish();
  EXPECT_NAMES(error_of([&] { barrier.get(); }), "member 2");
  EXPECT_NAMES(error_of([&] { broadcast.get(); }), "member 2");
  EXPECT_NAMES(error_of([&] { members[0]->net().run(members[0]->group().barrier("later")); }), "member 2");
  EXPECT_NAMES(error_of([&] { members[0]->net().run(members[0]->group().all_gather("b", {})); }), "member 2");
}

TEST(Failure, WhoHearsOfAFailureAndThenLosesTheMessengerReportsTheFailure) {
  Members members;
  for (Rank rank = 0; rank < 2; ++rank) members.push_back(std::make_unique<Member>(quick_options(rank, 3)));
  auto addresses = listen_all(members);
  addresses.push_back("127.0.0.1:1");
  auto joining = on_all(members, [&](Member& member) { return member.group().join(addresses); });
  FakeMember messenger(2, 3);
  messenger.connect(addresses[0]);
  FakeMember other_side(2, 3);
  other_side.connect(addresses[1]);
  for (auto& done : joining) done.get();
  messenger.send(FrameType::abort,
                 encode(Error(ErrorCode::peer_lost, "member 7 (gone) sent nothing for 10 s")));
  messenger.hang_up();
  for (auto& member : members) {
    const Error error = member->failure();
    EXPECT_EQ(error.code(), ErrorCode::peer_lost);
    EXPECT_STREQ(error.what(), "member 7 (gone) sent nothing for 10 s");
  }
}

// Over a slow link, a frame that is half sent takes longer than somebody who does not answer is waited for.
TEST(Failure, AnAbortReachesAMemberWhoseLinkStillCarriesALargeFrame) {
  GroupOptions options = quick_options(0, 2);
  options.peer_timeout = 30s;  // the fake one sends no heartbeats
  Member member(options);
  const std::string address = member.listen();
  auto joining = member.net().start(member.group().join_through(""));
  FakeMember slow(1, 2);
  slow.connect(address);
  joining.get();
  constexpr std::size_t kSize = std::size_t{48} << 20;  // more than both kernels hold
  member.net().call([&] { member.group().send_payload(1, std::make_shared<const Bytes>(kSize), {}); });
  while (member.net().call([&] { return member.group().traffic(1).bytes_sent; }) < kSize / 50) continue;
  auto aborting = member.net().start(member.group().abort("the disk is full"));
  Frame frame = slow.next_frame(kSize / 12, 300ms);
  while (frame.type != FrameType::payload) frame = slow.next_frame(kSize / 12, 300ms);
  EXPECT_EQ(frame.body.size(), kSize);
  const Frame last = slow.next_frame();
  ASSERT_EQ(last.type, FrameType::abort);
  EXPECT_NAMES(decode_farewell(last.body, "test"), "stopped: the disk is full");
  slow.hang_up();
  aborting.get();
}

TEST(Failure, AMemberThatTakesNothingIsSoonGivenUp) {
  Member member(quick_options(0, 2));
  const std::string address = member.listen();
  auto joining = member.net().start(member.group().join_through(""));
  FakeMember stuck(1, 2);
  stuck.connect(address);
  joining.get();
  const auto large = std::make_shared<const Bytes>(std::size_t{48} << 20);
  member.net().call([&] { member.group().send_payload(1, large, {}); });
  const auto start = Clock::now();
  member.net().run(member.group().abort("the disk is full"));
  EXPECT_GT(Clock::now() - start, 1900ms);
  EXPECT_LT(Clock::now() - start, 5s);
}

TEST(Failure, AnAbortReachesEverybodyWithItsSentence) {
  Members members = joined_members(4);
  auto pending = members[0]->net().start(members[0]->group().barrier("never"));
  auto own = members[2]->net().start(members[2]->group().barrier("never"));
  members[2]->net().call([&] { members[2]->group().set_begun(7); });
  members[2]->net().run(members[2]->group().abort("the loss is not finite"));
  for (Rank survivor : {0u, 1u, 3u}) {
    const Error error = members[survivor]->failure();
    EXPECT_EQ(error.code(), ErrorCode::peer_lost);
    EXPECT_NAMES(error, "member 2 (c0m2, 127.0.0.1:");
    EXPECT_NAMES(error, "stopped: the loss is not finite (in iteration 7)");
  }
  EXPECT_EQ(error_of([&] { pending.get(); }).code(), ErrorCode::peer_lost);
  EXPECT_EQ(error_of([&] { own.get(); }).code(), ErrorCode::cancelled);
}

TEST(Failure, AnAbortOvertakesWhatIsQueued) {
  Members members = joined_members(2);
  members[0]->net().call([&] {
    const auto body = std::make_shared<const Bytes>(Bytes(kMaxPayload));
    for (int i = 0; i < 20; ++i) members[0]->group().send_payload(1, body, {1, 0});
  });
  members[0]->net().run(members[0]->group().abort("enough"));
  const Error error = members[1]->failure();
  EXPECT_NAMES(error, "stopped: enough");
}

TEST(Failure, ASentenceOfAnyLengthFitsTheFrame) {
  Members members = joined_members(2);
  members[0]->net().run(members[0]->group().abort(std::string(100'000, 'x')));
  const Error error = members[1]->failure();
  EXPECT_NAMES(error, "stopped: xxx");
}

TEST(Leave, IsNoFailureForTheOthers) {
  Members members = joined_members(3);
  members[1]->net().run(members[1]->group().leave());
  for (Rank other : {0u, 2u}) {
    EXPECT_TRUE(members[other]->hears_leave_of(1));
    EXPECT_TRUE(members[other]->net().call([&] { return members[other]->group().has_left(1); }));
    EXPECT_EQ(members[other]->net().call([&] { return members[other]->group().failure(); }), nullptr);
  }
  members[0]->net().call([&] {
    members[0]->group().send_payload(2, std::make_shared<const Bytes>(1), {1, 0});
  });
  members[2]->payloads(1);
}

TEST(Leave, WhatWasQueuedBeforeArrives) {
  Members members = joined_members(2);
  members[0]->net().call([&] {
    for (int i = 0; i < 5; ++i) {
      members[0]->group().send_payload(1, std::make_shared<const Bytes>(Bytes(5'000'000)), {1, 0});
    }
  });
  members[0]->net().run(members[0]->group().leave());
  EXPECT_EQ(members[1]->payloads(5).size(), 5u);
}

TEST(Leave, AllAtOnceIsInOrderToo) {
  Members members = joined_members(4);
  for (auto& done : on_all(members, [](Member& member) { return member.group().leave(); })) done.get();
  for (auto& member : members) EXPECT_EQ(member->group().failure(), nullptr);
}

TEST(Leave, WhoNeedsTheMemberLaterIsToldThatItLeft) {
  Members members = joined_members(3);
  auto pending = members[0]->net().start(members[0]->group().barrier("needs all"));
  members[1]->net().run(members[1]->group().leave());
  const Error error = error_of([&] { pending.get(); });
  EXPECT_EQ(error.code(), ErrorCode::peer_lost);
  EXPECT_NAMES(error, "member 1");
  EXPECT_NAMES(error, "left in order");
  EXPECT_NAMES(error, "needs all");
}

// Member 0 of a world with fakes, which take nothing of what is queued for them.
class LeavingBehind {
 public:
  explicit LeavingBehind(std::uint32_t world_size, std::chrono::milliseconds peer_timeout = 10s)
      : member_(with(world_size, peer_timeout)) {
    const std::string address = member_.listen();
    auto joining = member_.net().start(member_.group().join_through(""));
    for (Rank rank = 1; rank < world_size; ++rank) {
      fakes_.push_back(std::make_unique<FakeMember>(rank, world_size));
      fakes_.back()->connect(address);
    }
    joining.get();
    const auto body = std::make_shared<const Bytes>(Bytes(kMaxPayload));
    member_.net().call([&] {
      for (Rank rank = 1; rank < world_size; ++rank) member_.group().send_payload(rank, body, {1, 0});
    });
    leaving_ = member_.net().start(member_.group().leave());
  }
  FakeMember& fake(Rank rank) { return *fakes_[rank - 1]; }
  // What leave() throws.
  Error error() {
    return error_of([&] { leaving_.get(); });
  }
  void close() { member_.net().run(member_.group().close()); }

 private:
  static GroupOptions with(std::uint32_t world_size, std::chrono::milliseconds peer_timeout) {
    GroupOptions options = quick_options(0, world_size);
    options.peer_timeout = peer_timeout;
    return options;
  }
  Member member_;
  std::vector<std::unique_ptr<FakeMember>> fakes_;
  Pending<void> leaving_;
};

TEST(Leave, AMemberThatIsKilledBeforeItTookEverythingIsALostPeerAtOnce) {
  LeavingBehind world(2);
  const auto start = Clock::now();
  world.fake(1).hang_up();
  const Error error = world.error();
  EXPECT_EQ(error.code(), ErrorCode::peer_lost);
  EXPECT_NAMES(error, "member 1 (fake");
  EXPECT_NAMES(error, "without leaving");
  EXPECT_LT(Clock::now() - start, 1s);
}

TEST(Leave, AMemberThatIsKilledIsNotHiddenByOneThatIsSlow) {
  LeavingBehind world(3);
  const auto start = Clock::now();
  world.fake(2).hang_up();
  const Error error = world.error();
  EXPECT_EQ(error.code(), ErrorCode::peer_lost);
  EXPECT_NAMES(error, "member 2 (fake");
  EXPECT_LT(Clock::now() - start, 1s);
  world.close();  // which gives the slow one a moment more
  EXPECT_LT(Clock::now() - start, 4s);
}

TEST(Leave, AMemberThatFallsSilentBeforeItTookEverythingIsNamedWithTheLimit) {
  LeavingBehind world(2, 600ms);
  const Error error = world.error();
  EXPECT_EQ(error.code(), ErrorCode::peer_lost);
  EXPECT_NAMES(error, "member 1 (fake");
  EXPECT_NAMES(error, "limit 0.6 s");
}

TEST(Hostile, AFrameOverItsLimitEndsTheRunAndNamesTheMember) {
  Member member(quick_options(0, 2));
  const std::string address = member.listen();
  auto joining = member.net().start(member.group().join_through(""));
  FakeMember fake(1, 2);
  fake.connect(address);
  joining.get();
  Bytes header;
  ByteWriter writer(header);
  writer.put(std::uint32_t{0xffffffff});
  writer.put(std::uint32_t{static_cast<std::uint32_t>(FrameType::payload)});
  fake.send_raw(header);
  const Error error = member.failure();
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_NAMES(error, "member 1 (fake");
  EXPECT_NAMES(error, "4294967295");
  EXPECT_NAMES(error, std::to_string(kMaxPayload));
}

TEST(Hostile, AnAddressThatIsNoneIsRefusedAndItsMemberTold) {
  Member member(quick_options(0, 2));
  const std::string address = member.listen();
  auto joining = member.net().start(member.group().join_through(""));
  for (const auto& [host, port] : {std::pair{"a[b", 4242}, std::pair{"gpu7", 0}}) {
    FakeMember liar(1, 2);
    liar.announce(host, static_cast<std::uint16_t>(port));
    liar.dial(address);
    liar.say_hello();
    const Frame answer = liar.next_frame();
    ASSERT_EQ(answer.type, FrameType::abort);
    const Error error = decode_farewell(answer.body, "member 0");
    EXPECT_EQ(error.code(), ErrorCode::protocol);
    EXPECT_NAMES(error, "member 1 (fake");
    EXPECT_NAMES(error, "announces no address to connect to: \"" + std::string(host));
    EXPECT_NAMES(error, "STELLA_HOST");
  }
  FakeMember honest(1, 2);
  honest.connect(address);
  joining.get();
}

TEST(Hostile, APeerTimeoutOfNothingIsRefusedAndItsMemberTold) {
  Member member(quick_options(0, 2));
  const std::string address = member.listen();
  auto joining = member.net().start(member.group().join_through(""));
  FakeMember hasty(1, 2);
  hasty.announce(0ms);
  hasty.dial(address);
  hasty.say_hello();
  const Frame answer = hasty.next_frame();
  ASSERT_EQ(answer.type, FrameType::abort);
  const Error error = decode_farewell(answer.body, "member 0");
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_NAMES(error, "announces a peer timeout of 0 s; it must be at least 0.010 s");
  FakeMember patient(1, 2);
  patient.announce(std::chrono::hours(24 * 365));
  patient.connect(address);
  joining.get();
}

TEST(Hostile, ControlMessagesThatNobodyWantsAreBounded) {
  Member member(quick_options(0, 2));
  const std::string address = member.listen();
  auto joining = member.net().start(member.group().join_through(""));
  FakeMember fake(1, 2);
  fake.connect(address);
  joining.get();
  const Bytes message = encode(Call{99, Collective::all_gather, "flood"}, {});
  for (std::size_t i = 0; i <= ControlInbox::kMaxMessages; ++i) fake.send(FrameType::control, message);
  const Error error = member.failure();
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_NAMES(error, "member 1 (fake");
  EXPECT_NAMES(error, "the limit is 1024 messages");
}

TEST(Hostile, APayloadThatTheExchangeRefusesIsAFailureOfItsSender) {
  Member member(quick_options(0, 2));
  const std::string address = member.listen();
  member.net().call([&] {
    member.group().on_payload(
        [](Rank, Bytes, auto) { throw Error(ErrorCode::protocol, "member 1 sent nonsense"); });
  });
  auto joining = member.net().start(member.group().join_through(""));
  FakeMember fake(1, 2);
  fake.connect(address);
  joining.get();
  fake.send(FrameType::payload, Bytes(3));
  const Error error = member.failure();
  EXPECT_NAMES(error, "sent nonsense");
  Frame last = fake.next_frame();
  while (last.type != FrameType::abort) last = fake.next_frame();
  EXPECT_NAMES(decode_farewell(last.body, "test"), "sent nonsense");
}

TEST(Hostile, GarbageInsteadOfAHelloIsRefusedAndTheRightMemberStillJoins) {
  Members members = make_members(2);
  const auto addresses = listen_all(members);
  auto joining = members[0]->net().start(members[0]->group().join_through(""));
  FakeMember fake(1, 2);
  fake.dial(addresses[0]);
  fake.send(FrameType::hello, bytes_of("GET / HTTP/1.0\r\n\r\n"));
  const Frame answer = fake.next_frame();
  EXPECT_EQ(answer.type, FrameType::abort);
  EXPECT_NAMES(decode_farewell(answer.body, "test"), "no hello");
  members[1]->net().run(members[1]->group().join_through(addresses[0]));
  joining.get();
}

}  // namespace
}  // namespace stella::testing
