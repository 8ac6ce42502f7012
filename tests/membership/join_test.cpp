#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <sstream>

#include "membership/member_process.hpp"

namespace stella::testing {
namespace {

class JoiningWorlds : public ::testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(OfOneToFour, JoiningWorlds, ::testing::Values(1u, 2u, 3u, 4u));

void expect_everybody_knows_everybody(Members& members) {
  for (auto& member : members) {
    for (Rank rank = 0; rank < members.size(); ++rank) {
      const MemberInfo& info = member->group().members()[rank];
      EXPECT_EQ(info.rank, rank);
      EXPECT_EQ(info.name, "c0m" + std::to_string(rank));
      EXPECT_EQ(info.cluster, "c0");
    }
  }
}

TEST_P(JoiningWorlds, JoinByTheirAddresses) {
  Members members = joined_members(GetParam());
  expect_everybody_knows_everybody(members);
}

TEST_P(JoiningWorlds, JoinThroughMemberZero) {
  Members members = make_members(GetParam());
  const auto addresses = listen_all(members);
  for (auto& done :
       on_all(members, [&](Member& member) { return member.group().join_through(addresses[0]); })) {
    done.get();
  }
  expect_everybody_knows_everybody(members);
}

TEST(Join, MembersThatStartInAnyOrderFindEachOther) {
  Members members = make_members(3);
  const std::string coordinator = members[0]->listen();
  members[1]->listen();
  members[2]->listen();
  auto two = members[2]->net().start(members[2]->group().join_through(coordinator));
  auto one = members[1]->net().start(members[1]->group().join_through(coordinator));
  auto zero = members[0]->net().start(members[0]->group().join_through(""));
  zero.get();
  one.get();
  two.get();
}

// Nobody has made a call yet that others could miss.
TEST(Join, WhatBoundsACollectiveDoesNotBoundTheWaitForAddresses) {
  std::ostringstream log;
  const auto logger =
      std::make_shared<spdlog::logger>("m1", std::make_shared<spdlog::sinks::ostream_sink_mt>(log));
  Members members;
  for (Rank rank = 0; rank < 3; ++rank) {
    GroupOptions options = quick_options(rank, 3);
    options.collective_timeout = 100ms;
    options.hint_after = 50ms;
    members.push_back(
        std::make_unique<Member>(std::move(options), rank == 1 ? logger : test_logger("other")));
  }
  const std::string coordinator = members[0]->listen();
  members[1]->listen();
  members[2]->listen();
  auto zero = members[0]->net().start(members[0]->group().join_through(""));
  auto one = members[1]->net().start(members[1]->group().join_through(coordinator));
  EXPECT_EQ(one.wait_for(400ms), std::future_status::timeout);
  members[2]->net().run(members[2]->group().join_through(coordinator));
  zero.get();
  one.get();
  members.clear();  // the log is complete
  EXPECT_TRUE(contains(log.str(), "still lacks")) << log.str();
  EXPECT_FALSE(contains(log.str(), "every member has to call")) << log.str();
}

TEST(Join, AMemberWithoutAHostIsFoundByWhereItsConnectionComesFrom) {
  Members members;
  for (Rank rank = 0; rank < 3; ++rank) {
    GroupOptions options = quick_options(rank, 3);
    options.host.clear();
    members.push_back(std::make_unique<Member>(std::move(options)));
  }
  const auto addresses = listen_all(members);
  for (auto& done :
       on_all(members, [&](Member& member) { return member.group().join_through(addresses[0]); })) {
    done.get();
  }
  for (auto& member : members) {
    for (Rank rank = 0; rank < 3; ++rank) {
      EXPECT_EQ(member->group().members()[rank].address, addresses[rank])
          << "as " << member->rank() << " says";
      EXPECT_EQ(member->group().describe(rank), "member " + std::to_string(rank) + " (c0m" +
                                                    std::to_string(rank) + ", " + addresses[rank] + ")");
    }
  }
}

TEST(Join, AMemberThatNeverComesIsNamedWithTheTimeAndWhatToCheck) {
  Members members;
  for (Rank rank = 0; rank < 2; ++rank) {
    GroupOptions options = quick_options(rank, 3);
    options.join_timeout = 700ms;
    members.push_back(std::make_unique<Member>(std::move(options)));
  }
  auto addresses = listen_all(members);
  addresses.push_back("127.0.0.1:9");
  auto results = on_all(members, [&](Member& member) { return member.group().join(addresses); });
  for (auto& result : results) {
    const Error error = error_of([&] { result.get(); });
    EXPECT_EQ(error.code(), ErrorCode::timeout);
    EXPECT_NAMES(error, "member 2");
    EXPECT_NAMES(error, "0.700 s");
    EXPECT_NAMES(error, "check that they were started");
  }
}

TEST(Join, TheTimeoutRunsFromListenSoThatWhatTheAddressesTookIsPartOfIt) {
  GroupOptions options = quick_options(0, 2);
  options.join_timeout = 800ms;
  Member member(std::move(options));
  const auto start = std::chrono::steady_clock::now();
  const std::string address = member.listen();
  std::this_thread::sleep_for(600ms);
  const Error error = error_of([&] { member.net().run(member.group().join({address, "127.0.0.1:9"})); });
  EXPECT_EQ(error.code(), ErrorCode::timeout);
  EXPECT_NAMES(error, "after 0.800 s");
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1200ms);
}

TEST(Join, ACoordinatorThatNeverComesIsNamed) {
  GroupOptions options = quick_options(1, 2);
  options.join_timeout = 500ms;
  Member member(std::move(options));
  member.listen();
  const Error error = error_of([&] { member.net().run(member.group().join_through("127.0.0.1:9")); });
  EXPECT_EQ(error.code(), ErrorCode::timeout);
  EXPECT_NAMES(error, "member 0 (127.0.0.1:9)");
  EXPECT_NAMES(error, "Connection refused");
}

TEST(Join, AnotherSecretIsReportedAtOnceAndByTheListeningSideWhenItGivesUp) {
  GroupOptions first = quick_options(0, 2);
  first.join_timeout = 2s;
  Member listening(std::move(first));
  const std::string address = listening.listen();
  GroupOptions second = quick_options(1, 2);
  second.secret = other_secret();
  Member connecting(std::move(second));
  connecting.listen();
  auto listening_side = listening.net().start(listening.group().join_through(""));
  const auto start = std::chrono::steady_clock::now();
  const Error error = error_of([&] { connecting.net().run(connecting.group().join_through(address)); });
  EXPECT_EQ(error.code(), ErrorCode::unauthenticated);
  EXPECT_NAMES(error, "another run secret");
  EXPECT_LT(std::chrono::steady_clock::now() - start, 1500ms);
  const Error waiting = error_of([&] { listening_side.get(); });
  EXPECT_EQ(waiting.code(), ErrorCode::timeout);
  EXPECT_NAMES(waiting, "failed the handshake");
}

TEST(Join, AnotherWorldSizeIsAMismatchOnBothSidesThatNamesBothValues) {
  Member first(quick_options(0, 2));
  const std::string address = first.listen();
  Member second(quick_options(1, 3));
  second.listen();
  auto listening = first.net().start(first.group().join_through(""));
  auto connecting = second.net().start(second.group().join_through(address));
  for (auto* side : {&listening, &connecting}) {
    const Error error = error_of([&] { side->get(); });
    EXPECT_EQ(error.code(), ErrorCode::mismatch);
    EXPECT_NAMES(error, "world of 3");
    EXPECT_NAMES(error, "one of 2");
  }
}

TEST(Join, TwoMembersOfOneRankAreBothNamed) {
  Member zero(quick_options(0, 3));
  const std::string address = zero.listen();
  GroupOptions options = quick_options(1, 3);
  options.name = "original";
  Member one(std::move(options));
  one.listen();
  options = quick_options(1, 3);
  options.name = "copy";
  Member other(std::move(options));
  other.listen();
  auto listening = zero.net().start(zero.group().join_through(""));
  auto first = one.net().start(one.group().join_through(address));
  auto second = other.net().start(other.group().join_through(address));
  for (auto* side : {&listening, &first, &second}) {
    const Error error = error_of([&] { side->get(); });
    EXPECT_EQ(error.code(), ErrorCode::mismatch);
    EXPECT_NAMES(error, "both claim rank 1");
    EXPECT_NAMES(error, "original");
    EXPECT_NAMES(error, "copy");
  }
}

TEST(Join, ALatecomerOfATakenRankIsRefusedAndTheRunGoesOn) {
  Members members = joined_members(2);
  Member late(quick_options(1, 2));
  late.listen();
  const std::string address = members[1]->group().members()[0].address;
  const Error error = error_of([&] { late.net().run(late.group().join_through(address)); });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "both claim rank 1");
  for (auto& done : on_all(members, [](Member& member) { return member.group().barrier("still here"); }))
    done.get();
}

TEST(Join, APortInUseNamesThePortAndTheVariable) {
  Member first(quick_options(0, 2));
  const std::string address = first.listen();
  GroupOptions options = quick_options(1, 2);
  options.port = static_cast<std::uint16_t>(std::stoi(address.substr(address.rfind(':') + 1)));
  Member second(std::move(options));
  const Error error = error_of([&] { second.listen(); });
  EXPECT_EQ(error.code(), ErrorCode::configuration);
  EXPECT_NAMES(error, address.substr(address.rfind(':') + 1));
  EXPECT_NAMES(error, "STELLA_PORT");
}

TEST(Join, SeveralMembersNeedASecret) {
  TestThread net;
  GroupOptions options = quick_options(0, 2);
  options.secret.reset();
  net.call([&] {
    const Error error = error_of([&] { Group(net.io(), options, test_logger("test")); });
    EXPECT_EQ(error.code(), ErrorCode::configuration);
    EXPECT_NAMES(error, "STELLA_SECRET_FILE");
  });
}

TEST(Join, ClosingInTheMiddleEndsIt) {
  Member member(quick_options(1, 2));
  member.listen();
  auto joining = member.net().start(member.group().join_through("127.0.0.1:9"));
  member.net().run(member.group().close());
  EXPECT_EQ(error_of([&] { joining.get(); }).code(), ErrorCode::cancelled);
}

}  // namespace
}  // namespace stella::testing
