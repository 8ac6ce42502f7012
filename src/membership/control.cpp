#include "membership/control.hpp"

#include <algorithm>

#include "stella/error.hpp"

namespace stella {
namespace {

std::string_view to_string(Collective kind) {
  switch (kind) {
    case Collective::addresses:
      return "addresses";
    case Collective::all_gather:
      return "all_gather";
    case Collective::broadcast:
      return "broadcast";
    case Collective::barrier:
      return "barrier";
  }
  return "unknown";
}

Collective checked_kind(std::uint8_t kind, const std::string& sender) {
  if (kind < static_cast<std::uint8_t>(Collective::addresses) ||
      kind > static_cast<std::uint8_t>(Collective::barrier)) {
    throw Error(ErrorCode::protocol,
                sender + " sent a control message of unknown kind " + std::to_string(kind));
  }
  return static_cast<Collective>(kind);
}

}  // namespace

bool same_collective(const Call& a, const Call& b) {
  return a.sequence == b.sequence && a.kind == b.kind && a.tag == b.tag;
}

std::string describe(const Call& call) {
  return std::string(to_string(call.kind)) + " \"" + call.tag + "\" (collective number " +
         std::to_string(call.sequence) + ")";
}

Bytes encode(const Call& call, std::span<const std::byte> content) {
  Bytes bytes;
  bytes.reserve(kMaxControlOverhead + content.size());
  ByteWriter writer(bytes);
  writer.put(call.sequence);
  writer.put(static_cast<std::uint8_t>(call.kind));
  writer.put_string(call.tag);
  writer.put(call.begun);
  writer.put_bytes(content);
  return bytes;
}

ControlMessage decode_control(Bytes body, const std::string& sender) {
  ByteReader reader(body, "a control message of " + sender);
  ControlMessage message;
  message.call.sequence = reader.get<std::uint64_t>();
  message.call.kind = checked_kind(reader.get<std::uint8_t>(), sender);
  message.call.tag = reader.get_string(kMaxTag);
  message.call.begun = reader.get<Iteration>();
  message.content_at = body.size() - reader.remaining();
  message.body = std::move(body);
  return message;
}

void ControlInbox::put(ControlMessage message, const std::string& sender) {
  const std::size_t size = message.body.size();
  if (messages_.size() >= kMaxMessages || size > kMaxBytes - bytes_) {
    throw Error(ErrorCode::protocol,
                sender + " sent " + std::to_string(messages_.size() + 1) + " control messages (" +
                    std::to_string(bytes_ + size) + " bytes) that nobody here waits for; the limit is " +
                    std::to_string(kMaxMessages) + " messages and " + std::to_string(kMaxBytes) + " bytes");
  }
  bytes_ += size;
  messages_.push_back(std::move(message));
}

const Call* ControlInbox::next_after(std::uint64_t sequence) const {
  const auto found = std::ranges::find_if(
      messages_, [sequence](const ControlMessage& message) { return message.call.sequence > sequence; });
  return found == messages_.end() ? nullptr : &found->call;
}

std::optional<ControlMessage> ControlInbox::take(std::uint64_t sequence) {
  const auto found = std::ranges::find_if(
      messages_, [sequence](const ControlMessage& message) { return message.call.sequence == sequence; });
  if (found == messages_.end()) return std::nullopt;
  ControlMessage message = std::move(*found);
  messages_.erase(found);
  bytes_ -= message.body.size();
  return message;
}

}  // namespace stella
