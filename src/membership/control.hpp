// Messages of the collectives, and those that came before they were wanted. Format: docs/wire.md, "Control".
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <span>
#include <string>

#include "base/bytes.hpp"
#include "base/ids.hpp"

namespace stella {

enum class Collective : std::uint8_t { addresses = 1, all_gather = 2, broadcast = 3, barrier = 4 };

inline constexpr std::size_t kMaxTag = 256;
inline constexpr std::size_t kMaxControlOverhead = 1024;  // control header and tag fit in it

// One collective as its caller sees it: every member makes the same calls in the same order.
struct Call {
  std::uint64_t sequence = 0;  // 0: the table of addresses; then 1, 2, 3, ...
  Collective kind = Collective::all_gather;
  std::string tag;
  Iteration begun = 0;  // by the caller so far; members may differ
};

// Whether two members' calls are one collective.
bool same_collective(const Call& a, const Call& b);

// "all_gather \"model\" (collective number 3)".
std::string describe(const Call& call);

// A received message. The content lies at the end of the frame's body, which is kept whole.
struct ControlMessage {
  Call call;
  Bytes body;
  std::size_t content_at = 0;
  std::span<const std::byte> content() const { return std::span(body).subspan(content_at); }
};

Bytes encode(const Call& call, std::span<const std::byte> content);
// Throws Error(protocol); `sender` opens the sentence.
ControlMessage decode_control(Bytes body, const std::string& sender);

// The messages of one peer that no call has taken yet, in their order. A correct peer is at most two calls
// ahead, so a bound never hurts it.
class ControlInbox {
 public:
  static constexpr std::size_t kMaxBytes = std::size_t{64} << 20;
  static constexpr std::size_t kMaxMessages = 1024;

  // Throws Error(protocol) when full; `sender` opens the sentence.
  void put(ControlMessage message, const std::string& sender);
  // The oldest message of the call with that number.
  std::optional<ControlMessage> take(std::uint64_t sequence);
  // The oldest call behind `sequence` of which there is a message, or null. Valid until the inbox changes.
  const Call* next_after(std::uint64_t sequence) const;

 private:
  std::deque<ControlMessage> messages_;
  std::size_t bytes_ = 0;
};

}  // namespace stella
