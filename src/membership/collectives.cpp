// The collectives of the control plane. Messages: docs/wire.md, "Control".
#include <algorithm>
#include <memory>

#include "base/text.hpp"
#include "membership/control_content.hpp"
#include "membership/mesh.hpp"
#include "net/reminder.hpp"

namespace stella {
namespace {

using Clock = std::chrono::steady_clock;

constexpr std::uint64_t kReportEvery =
    kBroadcastWindow / 4;  // bytes consumed between two reports to the root

std::size_t size_of(const std::vector<std::span<std::byte>>& parts) {
  std::size_t size = 0;
  for (const auto& part : parts) size += part.size();
  return size;
}

// Calls use(piece) for each piece of memory that holds some of these bytes of the whole, in order.
template <class Use>
void for_each_piece(const std::vector<std::span<std::byte>>& parts, std::size_t offset, std::size_t size,
                    Use use) {
  for (const auto& part : parts) {
    if (offset < part.size() && size > 0) {
      const auto piece = part.subspan(offset, std::min(size, part.size() - offset));
      use(piece);
      size -= piece.size();
    }
    offset -= std::min(offset, part.size());
  }
}

Bytes get(const std::vector<std::span<std::byte>>& parts, std::size_t offset, std::size_t size) {
  Bytes bytes;
  bytes.reserve(size);
  for_each_piece(parts, offset, size, [&](std::span<const std::byte> piece) {
    bytes.insert(bytes.end(), piece.begin(), piece.end());
  });
  return bytes;
}

void put(std::span<const std::byte> bytes, const std::vector<std::span<std::byte>>& parts,
         std::size_t offset) {
  for_each_piece(parts, offset, bytes.size(), [&](std::span<std::byte> piece) {
    std::ranges::copy(bytes.first(piece.size()), piece.begin());
    bytes = bytes.subspan(piece.size());
  });
}

}  // namespace

Call Mesh::next_call(Collective kind, std::string tag) {
  throw_if_failed();
  if (tag.size() > kMaxTag) {
    throw Error(ErrorCode::invalid_argument, "the tag of a collective has " + std::to_string(tag.size()) +
                                                 " characters; the limit is " + std::to_string(kMaxTag));
  }
  return {++calls_, kind, std::move(tag), begun_};
}

void Mesh::send_control(Rank to, const Call& call, std::span<const std::byte> content) {
  const auto& connection = peers_[to].connection;
  if (connection) connection->send(FrameType::control, std::make_shared<const Bytes>(encode(call, content)));
}

void Mesh::send_to_all(const Call& call, std::span<const std::byte> content) {
  const auto body = std::make_shared<const Bytes>(encode(call, content));
  for (const Peer& peer : peers_) {
    if (peer.connection) peer.connection->send(FrameType::control, body);
  }
}

// next_message(), for a call that this member's user made: it says who is awaited, and ends some time.
asio::awaitable<ControlMessage> Mesh::receive(Rank from, const Call& call) {
  const Deadline limit(io_.get_executor(), Clock::now() + options_.collective_timeout, [this, from, &call] {
    fail(Error(ErrorCode::timeout, describe(options_.rank) + " waited " +
                                       to_text(options_.collective_timeout) + " in " +
                                       stella::describe(call) + " for " + describe(from) +
                                       ", which is alive but sent nothing for it; all members must make the "
                                       "same calls in the same order. If it is only slow, raise "
                                       "STELLA_STEP_TIMEOUT (it holds from distribute() on)"));
  });
  const Reminder hint(io_.get_executor(), options_.hint_after, [this, from, &call](auto waited) {
    const bool in_pieces = call.kind == Collective::broadcast;
    log_->warn(
        "after {} still waits for {} in {}{}", to_text(waited), describe(from), stella::describe(call),
        in_pieces ? ": it has not made that call, or a link is slow" : ", which every member has to call");
  });
  co_return co_await next_message(from, call);
}

// The next message of that call from that member.
asio::awaitable<ControlMessage> Mesh::next_message(Rank from, const Call& call) {
  for (;;) {
    throw_if_failed();
    if (leaving_) throw Error(ErrorCode::cancelled, "this member left during " + stella::describe(call));
    if (auto message = peers_[from].inbox.take(call.sequence)) {
      check_same_call(from, message->call, call);
      co_return std::move(*message);
    }
    if (has_left(from)) {
      fail_and_throw(Error(ErrorCode::peer_lost, describe(from) + " has left in order and takes no part in " +
                                                     stella::describe(call) + ", which needs every member"));
    }
    co_await changed_.wait();
  }
}

void Mesh::check_same_call(Rank from, const Call& theirs, const Call& ours) {
  if (same_collective(theirs, ours)) return;
  fail_and_throw(Error(ErrorCode::mismatch, describe(from) + " calls " + stella::describe(theirs) + ", " +
                                                describe(options_.rank) + " calls " + stella::describe(ours) +
                                                "; all members must make the same calls in the same order"));
}

std::optional<CallAhead> Mesh::call_ahead(Rank rank) const {
  const Call* call = peers_[rank].inbox.next_after(calls_);
  if (call == nullptr) return std::nullopt;
  return CallAhead{stella::describe(*call), call->begun};
}

asio::awaitable<std::vector<Bytes>> Mesh::all_gather(Collective kind, std::string tag, Bytes mine) {
  if (mine.size() > kMaxControl - kMaxControlOverhead) {
    throw Error(ErrorCode::invalid_argument, "all_gather \"" + tag + "\" of " + std::to_string(mine.size()) +
                                                 " bytes; the limit is " +
                                                 std::to_string(kMaxControl - kMaxControlOverhead));
  }
  const Call call = next_call(kind, std::move(tag));
  ++gathering_;
  const std::shared_ptr<void> over(nullptr, [this](void*) { --gathering_; });
  send_to_all(call, mine);
  std::vector<Bytes> all(options_.world_size);
  for (Rank rank = 0; rank < options_.world_size; ++rank) {
    if (rank == options_.rank) continue;
    const ControlMessage message = co_await receive(rank, call);
    const auto content = message.content();
    all[rank].assign(content.begin(), content.end());
  }
  all[options_.rank] = std::move(mine);
  co_return all;
}

asio::awaitable<void> Mesh::broadcast(std::string tag, Rank root, Parts parts) {
  if (root >= options_.world_size) {
    throw Error(ErrorCode::invalid_argument, "broadcast \"" + tag + "\" from rank " + std::to_string(root) +
                                                 ", which does not exist in a world of " +
                                                 std::to_string(options_.world_size));
  }
  const Call call = next_call(Collective::broadcast, std::move(tag));
  if (root == options_.rank) {
    co_await broadcast_from_here(call, parts);
  } else {
    co_await broadcast_to_here(call, root, parts);
  }
}

// The slowest member paces all: nobody has more than kBroadcastWindow bytes that it has not consumed.
asio::awaitable<void> Mesh::broadcast_from_here(const Call& call, const Parts& parts) {
  const std::size_t whole = size_of(parts);
  std::vector<std::uint64_t> consumed(options_.world_size, 0);
  send_to_all(call, encode(Chunk{whole, 0, {}}));
  for (std::size_t offset = 0; offset < whole; offset += kBroadcastChunk) {
    const Bytes bytes = get(parts, offset, std::min(kBroadcastChunk, whole - offset));
    const std::uint64_t after = offset + bytes.size();
    co_await await_consumed(call, consumed, after > kBroadcastWindow ? after - kBroadcastWindow : 0);
    send_to_all(call, encode(Chunk{whole, offset, bytes}));
  }
  for (Rank rank = 0; rank < options_.world_size; ++rank) {
    if (rank != options_.rank) co_await await_the_rest(call, rank, whole);
  }
}

// The last report, which every member sends, comes after the last chunk.
asio::awaitable<void> Mesh::await_the_rest(const Call& call, Rank from, std::uint64_t whole) {
  std::uint64_t consumed = 0;
  do {
    const ControlMessage message = co_await receive(from, call);
    consumed = decode_consumed(message.content(), describe(from));
  } while (consumed < whole);
}

// Returns once every other member has reported that it consumed at least that many bytes.
asio::awaitable<void> Mesh::await_consumed(const Call& call, std::vector<std::uint64_t>& consumed,
                                           std::uint64_t least) {
  for (Rank rank = 0; rank < options_.world_size; ++rank) {
    while (rank != options_.rank && consumed[rank] < least) {
      const ControlMessage message = co_await receive(rank, call);
      consumed[rank] = decode_consumed(message.content(), describe(rank));
    }
  }
}

asio::awaitable<void> Mesh::broadcast_to_here(const Call& call, Rank root, const Parts& parts) {
  const std::size_t whole = size_of(parts);
  std::uint64_t consumed = 0;
  std::uint64_t reported = 0;
  bool announced = false;
  while (!announced || consumed < whole) {
    const ControlMessage message = co_await receive(root, call);
    const Chunk chunk = decode_chunk(message.content(), describe(root));
    if (chunk.whole != whole) {
      fail_and_throw(Error(ErrorCode::mismatch, describe(root) + " sends " + std::to_string(chunk.whole) +
                                                    " bytes in " + stella::describe(call) + ", " +
                                                    describe(options_.rank) + " expects " +
                                                    std::to_string(whole)));
    }
    if (chunk.offset != consumed || chunk.bytes.size() > whole - consumed) {
      fail_and_throw(Error(ErrorCode::protocol,
                           describe(root) + " sent a chunk out of order in " + stella::describe(call)));
    }
    put(chunk.bytes, parts, consumed);
    announced = true;
    consumed += chunk.bytes.size();
    if (consumed == whole || consumed - reported >= kReportEvery) {
      send_control(root, call, encode_consumed(consumed));
      reported = consumed;
    }
  }
}

}  // namespace stella
