// How the mesh comes to be: the higher rank connects to the lower one.
#include <algorithm>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>

#include "base/text.hpp"
#include "base/version.hpp"
#include "membership/farewell.hpp"
#include "membership/mesh.hpp"
#include "net/connect.hpp"

namespace stella {
namespace {

using Clock = std::chrono::steady_clock;
using namespace std::chrono_literals;

constexpr auto kHelloTimeout = 5s;     // for who has shown the secret to say who it is
constexpr auto kAttemptTimeout = 10s;  // to resolve, connect and shake hands once
constexpr auto kFirstPause = 50ms;     // between attempts; doubles
constexpr auto kLongestPause = 1s;
constexpr int kRefusalsToBelieve = 3;
constexpr std::chrono::milliseconds kHeartbeat = 1s;  // at the latest

}  // namespace

std::uint16_t Mesh::listen() {
  if (alone()) return 0;
  join_by_ = Clock::now() + options_.join_timeout;
  listener_.emplace(io_, *server_tls_, ListenerOptions{.port = options_.port}, log_);
  port_ = listener_->open();
  if (!options_.host.empty()) members_[options_.rank].address = to_string(Address{options_.host, port_});
  start_accepting();
  return port_;
}

void Mesh::start_accepting() {
  Listener::Handler handler = [this](TlsStream stream, asio::ip::tcp::endpoint from) {
    joining_.spawn(greet(std::move(stream), from));
  };
  carrying_.spawn(listener_->run(std::move(handler)));
}

asio::awaitable<void> Mesh::join(std::vector<std::string> addresses) {
  if (addresses.size() != options_.world_size) {
    throw Error(ErrorCode::invalid_argument, std::to_string(addresses.size()) + " addresses for a world of " +
                                                 std::to_string(options_.world_size) + " members");
  }
  const Deadline hint = say_who_is_awaited();
  for (Rank rank = 0; rank < options_.world_size; ++rank) members_[rank].address = std::move(addresses[rank]);
  for (Rank lower = 0; lower < options_.rank; ++lower) joining_.spawn(dial(lower));
  co_await until_complete();
}

asio::awaitable<void> Mesh::join_through(std::string coordinator) {
  const Deadline hint = say_who_is_awaited();
  if (!coordinator.empty()) members_[0].address = coordinator;  // as all others call it
  if (options_.rank > 0) {
    const Address address = parse_address(coordinator);
    const Deadline limit(io_.get_executor(), join_by_, [this] { fail(not_complete()); });
    joining_.spawn(dial(0));
    awaits_addresses_ = true;
    co_await receive_addresses(address);
    awaits_addresses_ = false;
    for (Rank lower = 1; lower < options_.rank; ++lower) joining_.spawn(dial(lower));
  }
  co_await until_complete();
  if (options_.rank == 0) send_addresses();
}

asio::awaitable<void> Mesh::until_complete() {
  const Deadline limit(io_.get_executor(), join_by_, [this] { fail(not_complete()); });
  while (!complete() && !failure_) co_await changed_.wait();
  throw_if_failed();
  joined_ = true;
  if (!alone()) log_->info("all {} members are connected", options_.world_size);
}

bool Mesh::complete() const {
  for (Rank rank = 0; rank < options_.world_size; ++rank) {
    if (rank != options_.rank && !peers_[rank].connection) return false;
  }
  return true;
}

Error Mesh::not_complete() const { return Error(ErrorCode::timeout, still_lacks(options_.join_timeout)); }

Deadline Mesh::say_who_is_awaited() {
  if (!alone()) {
    const auto left = std::chrono::ceil<std::chrono::seconds>(join_by_ - Clock::now());
    log_->info("member {} of {} listens on port {} and waits for the others, for up to {}", options_.rank,
               options_.world_size, port_, to_text(std::max(left, 0s)));
  }
  const auto hint = [this] { log_->info(still_lacks(options_.hint_after)); };
  return {io_.get_executor(), Clock::now() + options_.hint_after, hint};
}

std::string Mesh::still_lacks(std::chrono::milliseconds after) const {
  // What this one doesn't see before it has the addresses, member 0 does.
  const bool only_0_knows = awaits_addresses_ && peers_[0].connection;
  std::string missing;
  for (Rank rank = 0; rank < options_.world_size && !only_0_knows; ++rank) {
    if (rank == options_.rank || peers_[rank].connection) continue;
    const auto& reason = peers_[rank].last_attempt;
    missing += (missing.empty() ? "" : "; ") + describe(rank) + (reason.empty() ? "" : ": " + reason);
  }
  std::string sentence =
      "after " + to_text(after) + " this run of " + std::to_string(options_.world_size) + " still lacks ";
  sentence +=
      only_0_knows ? "somebody for whom " + describe(0) + " waits too; its log says for whom" : missing;
  sentence +=
      "; check that they were started, that their ports are reachable, and that all have the same world size";
  if (listener_ && listener_->refused() > 0) {
    sentence += "; " + std::to_string(listener_->refused()) +
                " incoming connections failed the handshake (another run secret?)";
  }
  return sentence;
}

// --- Being connected to.

asio::awaitable<void> Mesh::greet(TlsStream stream, asio::ip::tcp::endpoint from) {
  const std::string host = plain(from.address()).to_string();
  const std::string stranger = "the member that connected from " + host;
  const Deadline limit(io_.get_executor(), Clock::now() + kHelloTimeout, [&stream] { cut(stream); });
  std::optional<Error> objection;
  Hello hello;
  std::string address;
  try {
    const Frame frame = co_await read_frame(stream, stranger, kMaxHello);
    hello = decode_hello(frame.body, stranger);
    address = to_string(Address{hello.host.empty() ? host : hello.host, hello.port});
    objection = objection_to(hello, address);
  } catch (const std::system_error&) {
    co_return;  // gone, late, or cancelled
  } catch (const Error& error) {
    objection = error;
  }
  if (objection) {
    co_await refuse(stream, *objection, stranger);
    co_return;
  }
  add_peer(hello, std::move(address), std::move(stream), /*answer=*/true);
}

// While members gather, a wrong one among them ends the attempt for all; later it only ends its own.
asio::awaitable<void> Mesh::refuse(TlsStream& stream, const Error& reason, const std::string& stranger) {
  log_->warn("{} was refused: {}", stranger, reason.what());
  try {
    const Bytes body = encode(reason);
    co_await write_frame(stream, FrameType::abort, body);
  } catch (const std::system_error&) {
    // It is gone, and needs no answer any more.
  }
  if (!joined_ && reason.code() == ErrorCode::mismatch) fail(reason);
}

std::optional<Error> Mesh::objection_to(const Hello& hello, const std::string& address) const {
  const MemberInfo theirs{hello.rank, hello.name, hello.cluster, hello.hostname, address};
  const std::string who = stella::describe(theirs);
  const std::string we = describe(options_.rank);
  if (failure_) return *failure_;
  if (leaving_) return Error(ErrorCode::peer_lost, we + " is leaving the run");
  if (hello.world_size != options_.world_size) {
    return Error(ErrorCode::mismatch, who + " expects a world of " + std::to_string(hello.world_size) +
                                          " members, " + we + " one of " +
                                          std::to_string(options_.world_size) +
                                          "; start all with the same world size");
  }
  if (hello.rank >= options_.world_size) {
    return Error(ErrorCode::mismatch, who + " does not exist in a world of " +
                                          std::to_string(options_.world_size) + " members (ranks 0 to " +
                                          std::to_string(options_.world_size - 1) + ")");
  }
  try {
    parse_address(address);
  } catch (const Error& none) {
    return Error(ErrorCode::protocol,
                 who + " announces no address to connect to: " + none.what() + "; look at its STELLA_HOST");
  }
  if (hello.rank == options_.rank || peers_[hello.rank].connection) {
    const std::string first = describe(hello.rank);
    return Error(ErrorCode::mismatch, who + " and " + first + " both claim rank " +
                                          std::to_string(hello.rank) +
                                          "; give every member a rank of its own");
  }
  if (hello.rank < options_.rank) {
    return Error(ErrorCode::protocol,
                 who + " connected to " + we + "; the higher rank connects to the lower one");
  }
  return std::nullopt;
}

// --- Connecting.

// Tries until the member is there. join()'s deadline cancels it through fail().
asio::awaitable<void> Mesh::dial(Rank to) {
  int refusals = 0;
  std::chrono::milliseconds pause = kFirstPause;
  asio::steady_timer timer(io_);
  while (!ending()) {
    std::optional<Error> failed;
    try {
      co_await dial_once(to);
      co_return;
    } catch (const Error& error) {
      failed = error;
    } catch (const std::system_error& error) {
      if (error.code() == asio::error::operation_aborted) co_return;
      failed =
          Error(ErrorCode::io, members_[to].address + " hung up during the hello (" + error.what() + ")");
    }
    if (ending()) co_return;
    peers_[to].last_attempt = failed->what();
    if (failed->code() == ErrorCode::unauthenticated) ++refusals;
    const bool may_come = failed->code() == ErrorCode::io ||
                          (failed->code() == ErrorCode::unauthenticated && refusals < kRefusalsToBelieve);
    if (!may_come) co_return fail(*failed);
    timer.expires_after(pause);
    pause = std::min<std::chrono::milliseconds>(pause * 2, kLongestPause);
    std::error_code woken;
    co_await timer.async_wait(asio::redirect_error(asio::use_awaitable, woken));
  }
}

asio::awaitable<void> Mesh::dial_once(Rank to) {
  const Address address = parse_address(members_[to].address);
  TlsStream stream = co_await connect(*client_tls_, address, Clock::now() + kAttemptTimeout);
  const Bytes mine = encode(own_hello());
  co_await write_frame(stream, FrameType::hello, mine);
  const std::string who = describe(to);
  const Frame answer = co_await read_frame(stream, who, kMaxHello);
  if (answer.type == FrameType::abort) throw decode_farewell(answer.body, who);
  const Hello hello = decode_hello(answer.body, who);
  if (hello.rank != to || hello.world_size != options_.world_size) {
    throw Error(ErrorCode::mismatch, members_[to].address + " is member " + std::to_string(hello.rank) +
                                         " of " + std::to_string(hello.world_size) + "; member " +
                                         std::to_string(to) + " of " + std::to_string(options_.world_size) +
                                         " was expected there");
  }
  add_peer(hello, members_[to].address, std::move(stream), /*answer=*/false);
}

Hello Mesh::own_hello() const {
  const MemberInfo& own = members_[options_.rank];
  return {.world_size = options_.world_size,
          .rank = options_.rank,
          .port = port_,
          .peer_timeout = options_.peer_timeout,
          .name = own.name,
          .cluster = own.cluster,
          .hostname = own.hostname,
          .host = options_.host,
          .software = "stellatrain " + std::string(version())};
}

// `answer`: the member connected to us and waits for our hello, which must be our first frame.
void Mesh::add_peer(const Hello& hello, std::string address, TlsStream stream, bool answer) {
  if (ending()) return;
  MemberInfo& member = members_[hello.rank];
  if (!member.address.empty()) address = member.address;
  member = {hello.rank, hello.name, hello.cluster, hello.hostname, std::move(address)};
  const ConnectionOptions options{.peer_timeout = options_.peer_timeout,
                                  .heartbeat = std::min(kHeartbeat, hello.peer_timeout / 4)};
  auto connection = std::make_shared<Connection>(std::move(stream), describe(hello.rank), options);
  if (answer) connection->send(FrameType::hello, std::make_shared<const Bytes>(encode(own_hello())));
  peers_[hello.rank].connection = connection;
  carrying_.spawn(serve(hello.rank, std::move(connection)));
  log_->debug("connected with {}", describe(hello.rank));
  changed_.notify();
}

}  // namespace stella
