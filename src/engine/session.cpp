#include "stella/session.hpp"

#include <asio/co_spawn.hpp>
#include <chrono>
#include <optional>
#include <utility>

#include "base/log.hpp"
#include "base/text.hpp"
#include "engine/layout.hpp"
#include "engine/local_engine.hpp"
#include "engine/local_rule.hpp"
#include "engine/manifest.hpp"
#include "engine/sparse_engine.hpp"
#include "engine/sparse_rule.hpp"
#include "membership/group.hpp"
#include "net/net_thread.hpp"
#include "net/secret.hpp"
#include "optim/settings.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

std::optional<RunSecret> secret_of(const SessionOptions& options) {
  if (!options.secret_file.empty()) return RunSecret::from_file(options.secret_file);
  if (!options.secret.empty()) return RunSecret::from_text(options.secret);
  return std::nullopt;
}

std::chrono::milliseconds milliseconds(double seconds, const char* what) {
  if (!(seconds >= 0.001 && seconds <= 1e8)) {
    throw Error(ErrorCode::invalid_argument, std::string(what) + " is " + to_text(seconds) +
                                                 " s; it must be at least 0.001 and at most 1e8");
  }
  return std::chrono::milliseconds(static_cast<std::int64_t>(seconds * 1000));
}

GroupOptions group_options(const SessionOptions& options) {
  GroupOptions group;
  group.rank = options.rank;
  group.world_size = options.world_size;
  group.name = options.name;
  group.cluster = options.cluster;
  group.host = options.host;
  group.port = options.port;
  group.secret = secret_of(options);
  group.join_timeout = milliseconds(options.join_timeout_seconds, "the join timeout");
  group.peer_timeout = milliseconds(options.peer_timeout_seconds, "the peer timeout");
  return group;
}

// Tells the others why, then ends whatever waits.
asio::awaitable<void> give_up(Group& group, std::string why) {
  co_await group.abort(std::move(why));
  co_await group.close();
}

}  // namespace

// The group lives on the net thread: made, used and destroyed there.
class Session::Impl {
 public:
  explicit Impl(const SessionOptions& options) : while_waiting(options.while_waiting) {
    GroupOptions group_settings = group_options(options);
    Logger log = make_logger(options.name.empty() ? "member " + std::to_string(options.rank) : options.name);
    group = net.call([&] { return std::make_unique<Group>(net.io(), std::move(group_settings), log); });
  }

  ~Impl() {
    try {
      if (!ended) net.run(group->abort("it ended without finish()"));
      net.run(group->close());
    } catch (const std::exception&) {
      // The others are told as far as they can be reached; a destructor has nobody to tell.
    }
    net.call([this] { group.reset(); });
  }

  // Runs a coroutine that waits for other members.
  template <class T>
  T wait_for(asio::awaitable<T> coroutine) {
    return net.run(std::move(coroutine), while_waiting, [this] {
      asio::co_spawn(net.io(), give_up(*group, "it was interrupted"), [](std::exception_ptr) {});
    });
  }

  void note_members() {
    members.clear();
    for (const MemberInfo& info : group->members()) {
      members.push_back({info.rank, info.name, info.cluster, info.hostname, info.address});
    }
  }

  // Every member compares with every other one, and nobody ends the run before all have: so the difference is
  // told on both sides.
  void compare_manifests(const Manifest& manifest) {
    const auto manifests = wait_for(group->all_gather("model", write_manifest(manifest)));
    std::optional<Error> difference;
    try {
      for (Rank rank = 0; rank < manifests.size(); ++rank) {
        const std::string who = group->describe(rank);
        if (rank != group->rank()) expect_equal(manifest, read_manifest(manifests[rank], who), who);
      }
    } catch (const Error& error) {
      difference = error;
    }
    try {
      wait_for(group->barrier("model compared"));
    } catch (const Error&) {
      if (!difference) throw;
    }
    if (difference) throw *difference;
  }

  std::unique_ptr<Engine> distribute(const std::vector<TensorSpec>& tensors,
                                     std::span<const GroupSettings> groups, const EngineOptions& options,
                                     std::span<float* const> parameters);

  std::unique_ptr<Engine> distribute_sparse(const std::vector<BucketLayout>& layouts,
                                            const std::vector<TensorSpec>& tensors,
                                            std::span<const GroupSettings> groups,
                                            const EngineOptions& options, std::span<float* const> parameters);
  std::unique_ptr<Engine> distribute_local(const std::vector<TensorSpec>& tensors,
                                           const EngineOptions& options, std::span<float* const> parameters);
  DescribeMember describe() {
    return [this](Rank rank) { return group->describe(rank); };
  }

  const std::function<void()> while_waiting;  // of SessionOptions
  NetThread net;
  std::unique_ptr<Group> group;
  std::vector<Member> members;
  bool ended = false;  // in order, or with a reason that the others know
};

Session::Session(const SessionOptions& options) : impl_(std::make_unique<Impl>(options)) {}

Session::~Session() = default;

std::uint16_t Session::listen() {
  return impl_->net.call([this] { return impl_->group->listen(); });
}

void Session::join(const std::vector<std::string>& addresses) {
  impl_->wait_for(impl_->group->join(addresses));
  impl_->note_members();
}

void Session::join_through(const std::string& coordinator) {
  impl_->wait_for(impl_->group->join_through(coordinator));
  impl_->note_members();
}

const std::vector<Member>& Session::members() const { return impl_->members; }

std::string Session::describe(std::uint32_t rank) const {
  return impl_->net.call([this, rank] { return impl_->group->describe(rank); });
}

std::vector<std::vector<std::byte>> Session::all_gather(const std::string& tag,
                                                        std::span<const std::byte> mine) {
  return impl_->wait_for(impl_->group->all_gather(tag, Bytes(mine.begin(), mine.end())));
}

void Session::broadcast(const std::string& tag, std::uint32_t root, std::span<std::byte> data) {
  impl_->wait_for(impl_->group->broadcast(tag, root, data));
}

std::unique_ptr<Engine> Session::distribute(const std::vector<TensorSpec>& tensors,
                                            std::span<const GroupSettings> groups,
                                            const EngineOptions& options,
                                            std::span<float* const> parameters) {
  try {
    return impl_->distribute(tensors, groups, options, parameters);
  } catch (const std::exception& error) {
    if (impl_->group->world_size() > 1) abort(error.what());  // the others must not wait for this member
    throw;
  }
}

std::unique_ptr<Engine> Session::Impl::distribute(const std::vector<TensorSpec>& tensors,
                                                  std::span<const GroupSettings> groups,
                                                  const EngineOptions& options,
                                                  std::span<float* const> parameters) {
  check_options(options);
  check_parameters(tensors, parameters);
  Manifest manifest;
  manifest.tensors = tensors;
  manifest.groups.assign(groups.begin(), groups.end());
  manifest.rule = options.rule;
  manifest.staleness = options.staleness;
  manifest.bucket_bytes = options.bucket_bytes;
  manifest.block = options.block;
  const bool sparse = options.rule == "sparse";
  for (const TensorSpec& tensor : tensors) {
    if (sparse && tensor.group >= groups.size()) {
      throw Error(ErrorCode::invalid_argument, "parameter '" + tensor.name + "' is in param group " +
                                                   std::to_string(tensor.group) + ", but there are only " +
                                                   std::to_string(groups.size()));
    }
  }
  for (const GroupSettings& settings : groups) validate(settings);
  const auto layouts = plan_buckets(tensors, options.bucket_bytes, options.block);
  const auto patience = milliseconds(options.step_timeout_seconds, "the step timeout");
  net.call([&] { group->set_collective_timeout(patience); });
  compare_manifests(manifest);
  auto engine = sparse ? distribute_sparse(layouts, tensors, groups, options, parameters)
                       : distribute_local(tensors, options, parameters);
  wait_for(group->barrier("distributed"));  // from here on everybody can receive payloads
  return engine;
}

std::unique_ptr<Engine> Session::Impl::distribute_sparse(const std::vector<BucketLayout>& layouts,
                                                         const std::vector<TensorSpec>& tensors,
                                                         std::span<const GroupSettings> groups,
                                                         const EngineOptions& options,
                                                         std::span<float* const> parameters) {
  std::vector<std::string> names;
  for (const TensorSpec& tensor : tensors) names.push_back(tensor.name);
  auto rule =
      std::make_unique<SparseRule>(layouts, std::move(names), groups, options, group->rank(), describe());
  rule->read_parameters(parameters);
  std::vector<std::span<std::byte>> weights;
  for (BucketId bucket = 0; bucket < rule->buckets(); ++bucket) {
    weights.push_back(std::as_writable_bytes(rule->weights(bucket)));
  }
  wait_for(group->broadcast("weights", 0, std::move(weights)));
  rule->restore_parameters(parameters);
  rule->state_loaded(0, parameters);
  return std::make_unique<SparseEngine>(net, *group, std::move(rule), tensors, groups.size(), options,
                                        while_waiting);
}

std::unique_ptr<Engine> Session::Impl::distribute_local(const std::vector<TensorSpec>& tensors,
                                                        const EngineOptions& options,
                                                        std::span<float* const> parameters) {
  auto rule = std::make_unique<LocalRule>(tensors, options, group->rank(), describe());
  rule->read_parameters(parameters);
  wait_for(group->broadcast("weights", 0, std::as_writable_bytes(rule->weights())));
  rule->write_parameters(parameters);
  rule->weights_loaded(0);
  return std::make_unique<LocalEngine>(net, *group, std::move(rule), tensors, options, while_waiting);
}

void Session::leave() {
  impl_->wait_for(impl_->group->leave());
  impl_->ended = true;
}

void Session::abort(const std::string& reason) {
  impl_->net.run(impl_->group->abort(reason));
  impl_->ended = true;
}

}  // namespace stella
