#include <gtest/gtest.h>
#include <spdlog/sinks/ostream_sink.h>

#include <numeric>
#include <sstream>

#include "membership/fake_member.hpp"
#include "membership/member_process.hpp"

namespace stella::testing {
namespace {

Bytes pattern(std::size_t size) {
  Bytes bytes(size);
  for (std::size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 2654435761u >> 13);
  return bytes;
}

class GatheredWorlds : public ::testing::TestWithParam<std::uint32_t> {};
INSTANTIATE_TEST_SUITE_P(OfOneToFour, GatheredWorlds, ::testing::Values(1u, 2u, 4u));

TEST_P(GatheredWorlds, AllGatherGivesEverybodysBytesByRankHoweverDifferentTheirSizes) {
  Members members = joined_members(GetParam());
  const std::vector<std::size_t> sizes{0, 1, 5'000'001, 77};
  auto results = on_all(members, [&](Member& member) {
    return member.group().all_gather("sizes", pattern(sizes[member.rank()]));
  });
  for (auto& result : results) {
    const auto all = result.get();
    ASSERT_EQ(all.size(), members.size());
    for (Rank rank = 0; rank < members.size(); ++rank) EXPECT_EQ(all[rank], pattern(sizes[rank]));
  }
}

// Most often only one of them saves.
TEST(Collectives, TheLogNamesAMemberThatIsLate) {
  std::ostringstream log;
  const auto logger =
      std::make_shared<spdlog::logger>("m0", std::make_shared<spdlog::sinks::ostream_sink_mt>(log));
  GroupOptions options = quick_options(0, 2);
  options.hint_after = 50ms;
  Members members;
  members.push_back(std::make_unique<Member>(options, logger));
  members.push_back(std::make_unique<Member>(quick_options(1, 2)));
  const auto addresses = listen_all(members);
  for (auto& done : on_all(members, [&](Member& member) { return member.group().join(addresses); }))
    done.get();

  auto waiting = members[0]->net().start(members[0]->group().all_gather("save", {}));
  EXPECT_EQ(waiting.wait_for(500ms), std::future_status::timeout);
  members[1]->net().run(members[1]->group().all_gather("save", {}));
  waiting.get();
  members.clear();  // the log is complete
  EXPECT_NE(log.str().find("after 0.050 s still waits for member 1 (c0m1, 127.0.0.1:"), std::string::npos)
      << log.str();
  EXPECT_NE(log.str().find("in all_gather \"save\""), std::string::npos) << log.str();
}

TEST_P(GatheredWorlds, BroadcastMakesEverybodysDataTheRootsForEverySize) {
  Members members = joined_members(GetParam());
  const Rank root = GetParam() - 1;
  for (const std::size_t size : {std::size_t{0}, std::size_t{1}, kBroadcastChunk - 1, kBroadcastChunk,
                                 kBroadcastChunk + 1, std::size_t{20'000'003}}) {
    std::vector<Bytes> data(members.size(), Bytes(size));
    data[root] = pattern(size);
    auto results = on_all(members, [&](Member& member) {
      return member.group().broadcast("weights", root, data[member.rank()]);
    });
    for (auto& result : results) result.get();
    for (const Bytes& copy : data) EXPECT_TRUE(copy == pattern(size)) << size;
  }
}

// Where the parts end is each member's own affair.
TEST_P(GatheredWorlds, BroadcastFillsMemoryInSeveralPlacesAsIfItWereOne) {
  Members members = joined_members(GetParam());
  const std::vector<std::vector<std::size_t>> splits{
      {0, 1, kBroadcastChunk, 0, 2'000'001, kBroadcastChunk + 1, 0},
      {kBroadcastChunk + 1, kBroadcastChunk - 1, 2'000'003},
      {2 * kBroadcastChunk + 2'000'003},
      {3, 2 * kBroadcastChunk, 0, 2'000'000}};
  std::vector<Bytes> data(members.size(), Bytes(2 * kBroadcastChunk + 2'000'003));
  data[0] = pattern(data[0].size());
  auto results = on_all(members, [&](Member& member) {
    std::vector<std::span<std::byte>> parts;
    std::span<std::byte> rest(data[member.rank()]);
    for (const std::size_t size : splits[member.rank()]) {
      parts.push_back(rest.first(size));
      rest = rest.subspan(size);
    }
    return member.group().broadcast("weights", 0, parts);
  });
  for (auto& result : results) result.get();
  for (const Bytes& copy : data) EXPECT_TRUE(copy == data[0]);
}

// However small the parts, messages are large: a late receiver keeps only so many.
TEST(Collectives, AnEarlyBroadcastOfManySmallPartsFitsWhatALateReceiverKeeps) {
  Members members = joined_members(2);
  Bytes data = pattern(kBroadcastWindow);
  Bytes copy(data.size());
  std::vector<std::span<std::byte>> parts;
  for (std::span<std::byte> rest(data); !rest.empty(); rest = rest.subspan(4096)) {
    parts.push_back(rest.first(4096));
  }
  auto sending = members[0]->net().start(members[0]->group().broadcast("early", 0, parts));
  members[0]->net().call([&] {
    members[0]->group().send_payload(1, std::make_shared<const Bytes>(), {1, 0});
  });
  members[1]->payloads(1);  // control is more urgent: now all of it is there
  members[1]->net().run(members[1]->group().broadcast("early", 0, copy));
  sending.get();
  EXPECT_EQ(copy, data);
}

TEST_P(GatheredWorlds, ABarrierHoldsEverybodyUntilTheLastOneCalls) {
  Members members = joined_members(GetParam());
  std::vector<Pending<void>> early;
  for (std::size_t i = 0; i + 1 < members.size(); ++i) {
    early.push_back(members[i]->net().start(members[i]->group().barrier("start")));
  }
  for (auto& one : early) EXPECT_EQ(one.wait_for(20ms), std::future_status::timeout);
  members.back()->net().run(members.back()->group().barrier("start"));
  for (auto& one : early) one.get();
}

TEST(Collectives, AThousandInARowMatch) {
  Members members = joined_members(3);
  for (int round = 0; round < 1000; ++round) {
    auto results = on_all(members, [&](Member& member) {
      return member.group().all_gather("round", bytes_of(std::to_string(round * 10 + member.rank())));
    });
    for (auto& result : results) EXPECT_EQ(result.get()[2], bytes_of(std::to_string(round * 10 + 2)));
  }
}

TEST(Collectives, WhatAFasterMemberSendsIsKeptUntilItIsWanted) {
  Members members = joined_members(2);
  Bytes data = pattern(3'000'000);
  Bytes copy(data.size());
  auto first = members[0]->net().start(members[0]->group().all_gather("a", bytes_of("zero")));
  auto second = members[0]->net().start(members[0]->group().broadcast("b", 0, data));
  EXPECT_EQ(second.wait_for(50ms), std::future_status::timeout);
  EXPECT_EQ(members[1]->net().run(members[1]->group().all_gather("a", bytes_of("one")))[0], bytes_of("zero"));
  members[1]->net().run(members[1]->group().broadcast("b", 0, copy));
  first.get();
  second.get();
  EXPECT_EQ(copy, data);
}

TEST(Collectives, AnEarlyBroadcastFillsAWindowAndNoMore) {
  Members members = joined_members(2);
  Bytes data(3 * kBroadcastWindow);
  Bytes copy(data.size());
  auto sending = members[0]->net().start(members[0]->group().broadcast("early", 0, data));
  members[0]->net().call([&] {
    members[0]->group().send_payload(1, std::make_shared<const Bytes>(), {1, 0});
  });
  members[1]->payloads(1);  // control is more urgent: now all that was sent before is there
  EXPECT_EQ(sending.wait_for(0ms), std::future_status::timeout);
  const auto sent = members[0]->net().call([&] { return members[0]->group().traffic(1).bytes_sent; });
  EXPECT_LE(sent, kBroadcastWindow + kBroadcastChunk);
  EXPECT_GE(sent, kBroadcastWindow);
  members[1]->net().run(members[1]->group().broadcast("early", 0, copy));
  sending.get();
}

TEST(Collectives, DifferentTagsAreAMismatchThatNamesBoth) {
  Members members = joined_members(3);
  const char* const tags[] = {"model", "model", "optimizer"};
  auto results = on_all(members, [&](Member& member) { return member.group().barrier(tags[member.rank()]); });
  for (auto& result : results) {
    const Error error = error_of([&] { result.get(); });
    EXPECT_EQ(error.code(), ErrorCode::mismatch);
    EXPECT_NAMES(error, "\"model\"");
    EXPECT_NAMES(error, "\"optimizer\"");
    EXPECT_NAMES(error, "member 2");
  }
}

TEST(Collectives, DifferentSizesOfABroadcastAreAMismatchThatNamesBoth) {
  Members members = joined_members(2);
  std::vector<Bytes> data{Bytes(1000), Bytes(1001)};
  auto results = on_all(
      members, [&](Member& member) { return member.group().broadcast("weights", 0, data[member.rank()]); });
  for (auto& result : results) {
    const Error error = error_of([&] { result.get(); });
    EXPECT_EQ(error.code(), ErrorCode::mismatch);
    EXPECT_NAMES(error, "1000");
    EXPECT_NAMES(error, "1001");
  }
}

TEST(Collectives, AMemberThatLivesButNeverCallsIsNamedAfterTheTimeout) {
  Members members;
  for (Rank rank = 0; rank < 2; ++rank) {
    GroupOptions options = quick_options(rank, 2);
    options.collective_timeout = 1s;
    members.push_back(std::make_unique<Member>(std::move(options)));
  }
  const auto addresses = listen_all(members);
  for (auto& done : on_all(members, [&](Member& member) { return member.group().join(addresses); }))
    done.get();
  const Error error = error_of([&] { members[0]->net().run(members[0]->group().barrier("alone")); });
  EXPECT_EQ(error.code(), ErrorCode::timeout);
  EXPECT_NAMES(error, "member 0 (c0m0");
  EXPECT_NAMES(error, "waited 1 s in barrier \"alone\"");
  EXPECT_NAMES(error, "for member 1");
}

TEST(Collectives, TooMuchForAnAllGatherIsRefusedBeforeItIsSent) {
  Members members = joined_members(2);
  const Error error =
      error_of([&] { members[0]->net().run(members[0]->group().all_gather("big", Bytes(kMaxControl))); });
  EXPECT_EQ(error.code(), ErrorCode::invalid_argument);
  EXPECT_EQ(members[0]->group().failure(), nullptr);
}

TEST(Payloads, ReachTheirMemberWholeWhateverTheirSize) {
  Members members = joined_members(3);
  const auto body = std::make_shared<const Bytes>(pattern(3'000'001));
  const auto empty = std::make_shared<const Bytes>();
  for (Rank to : {1u, 2u}) {
    members[0]->net().call([&] {
      members[0]->group().send_payload(to, body, {1, 0});
      members[0]->group().send_payload(to, empty, {1, 1});
    });
    const auto payloads = members[to]->payloads(2);
    EXPECT_EQ(payloads[0], std::pair(Rank{0}, *body));
    EXPECT_EQ(payloads[1], std::pair(Rank{0}, *empty));
  }
}

TEST(Payloads, EarlierIterationsOvertakeInTheQueueThenBucketsNearerTheInput) {
  Members members = joined_members(2);
  members[0]->net().call([&] {  // one call: nothing is written before all are queued
    for (Priority priority : {Priority{2, 0}, Priority{1, 1}, Priority{2, 1}, Priority{1, 0}}) {
      const Bytes body{static_cast<std::byte>(priority.iteration), static_cast<std::byte>(priority.bucket)};
      members[0]->group().send_payload(1, std::make_shared<const Bytes>(body), priority);
    }
  });
  const auto payloads = members[1]->payloads(4);
  const std::vector<std::pair<int, int>> order{{1, 0}, {1, 1}, {2, 0}, {2, 1}};
  for (std::size_t i = 0; i < order.size(); ++i) {
    EXPECT_EQ(std::to_integer<int>(payloads[i].second[0]), order[i].first);
    EXPECT_EQ(std::to_integer<int>(payloads[i].second[1]), order[i].second);
  }
}

TEST(Payloads, CostHardlyMoreOnTheWireThanTheirSize) {
  Members members = joined_members(2);
  const auto body = std::make_shared<const Bytes>(Bytes(8'000'000));
  members[0]->net().call([&] { members[0]->group().send_payload(1, body, {1, 0}); });
  members[1]->payloads(1);
  const Traffic sent = members[0]->net().call([&] { return members[0]->group().traffic(1); });
  EXPECT_GE(sent.bytes_sent, body->size());
  EXPECT_LT(sent.bytes_sent, body->size() * 101 / 100);
}

TEST(Payloads, AreRefusedForNobodyAndOverTheLimit) {
  Members members = joined_members(2);
  members[0]->net().call([&] {
    Group& group = members[0]->group();
    const auto small = std::make_shared<const Bytes>(1);
    const auto large = std::make_shared<const Bytes>(kMaxPayload + 1);
    EXPECT_EQ(error_of([&] { group.send_payload(0, small, {}); }).code(), ErrorCode::invalid_argument);
    EXPECT_EQ(error_of([&] { group.send_payload(2, small, {}); }).code(), ErrorCode::invalid_argument);
    EXPECT_EQ(error_of([&] { group.send_payload(1, large, {}); }).code(), ErrorCode::invalid_argument);
  });
}

}  // namespace
}  // namespace stella::testing
