// Members of one run inside one test process, each on its own thread.
#pragma once

#include <atomic>
#include <map>
#include <mutex>
#include <vector>

#include "membership/group.hpp"
#include "net/test_thread.hpp"

namespace stella::testing {

inline Bytes bytes_of(std::string_view text) {
  const auto* first = reinterpret_cast<const std::byte*>(text.data());
  return {first, first + text.size()};
}

inline GroupOptions quick_options(Rank rank, std::uint32_t world_size) {
  GroupOptions options;
  options.rank = rank;
  options.world_size = world_size;
  options.name = "c0m" + std::to_string(rank);
  options.cluster = "c0";
  options.host = "127.0.0.1";
  options.secret = test_secret();
  options.join_timeout = 10s;
  options.peer_timeout = 3s;
  options.collective_timeout = 10s;
  return options;
}

// One member. Verbs block the test's thread until they are done.
class Member {
 public:
  explicit Member(GroupOptions options)
      : Member(options, test_logger("member" + std::to_string(options.rank))) {}
  Member(GroupOptions options, Logger logger) : rank_(options.rank), logger_(std::move(logger)) {
    net_.call([&] {
      group_ = std::make_unique<Group>(net_.io(), std::move(options), logger_);
      group_->on_failure([this](const Error& error) { failed_.set_value(error); });
      group_->on_left([this](Rank rank) { left_[rank].set_value(); });
      group_->on_payload([this](Rank from, Bytes body, auto) { keep_payload(from, std::move(body)); });
    });
  }
  ~Member() {
    if (group_) net_.run(group_->close());
    net_.call([this] { group_.reset(); });
  }

  std::string listen() {
    return "127.0.0.1:" + std::to_string(net_.call([this] { return group_->listen(); }));
  }
  // The member's machine vanishes: sockets close, nobody is told.
  void vanish() { net_.run(group_->close()); }

  TestThread& net() { return net_; }
  Group& group() { return *group_; }
  Rank rank() const { return rank_; }

  // What on_failure told, once it has; fails the test after 10 s.
  Error failure() {
    auto future = failed_.get_future();
    if (future.wait_for(10s) == std::future_status::ready) return future.get();
    ADD_FAILURE() << "member " << rank_ << " notices no failure";
    return Error(ErrorCode::io, "no failure");
  }
  bool hears_leave_of(Rank rank) {
    return left_[rank].get_future().wait_for(10s) == std::future_status::ready;
  }

  std::vector<std::pair<Rank, Bytes>> payloads(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(arrived_.wait_for(lock, 10s, [&] { return payloads_.size() >= count; })) << payloads_.size();
    return payloads_;
  }

 private:
  void keep_payload(Rank from, Bytes body) {
    std::lock_guard lock(mutex_);
    payloads_.emplace_back(from, std::move(body));
    arrived_.notify_all();
  }

  TestThread net_;
  Rank rank_;
  Logger logger_;
  std::unique_ptr<Group> group_;
  std::promise<Error> failed_;
  std::vector<std::promise<void>> left_ = std::vector<std::promise<void>>(8);
  std::mutex mutex_;  // guards what follows
  std::vector<std::pair<Rank, Bytes>> payloads_;
  std::condition_variable arrived_;
};

using Members = std::vector<std::unique_ptr<Member>>;

inline Members make_members(std::uint32_t world_size) {
  Members members;
  for (Rank rank = 0; rank < world_size; ++rank) {
    members.push_back(std::make_unique<Member>(quick_options(rank, world_size)));
  }
  return members;
}

inline std::vector<std::string> listen_all(Members& members) {
  std::vector<std::string> addresses;
  for (auto& member : members) addresses.push_back(member->listen());
  return addresses;
}

// The same call on every member, at the same time; the results by rank.
template <class F>
auto on_all(Members& members, F call) {
  std::vector<decltype(members[0]->net().start(call(*members[0])))> results;
  for (auto& member : members) results.push_back(member->net().start(call(*member)));
  return results;
}

inline Members joined_members(std::uint32_t world_size) {
  Members members = make_members(world_size);
  const auto addresses = listen_all(members);
  for (auto& done : on_all(members, [&](Member& member) { return member.group().join(addresses); }))
    done.get();
  return members;
}

}  // namespace stella::testing
