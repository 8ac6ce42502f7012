// What members tell each other about the rounds of rule="local", beside their payloads: who holds what, and
// what the coordinator makes of it. Format: docs/wire.md, "Rounds".
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "base/rank_set.hpp"

namespace stella {

enum class RoundMessageKind : std::uint8_t {
  // To the coordinator.
  holds = 1,    // the sender holds the payloads of `set` in `round`
  rejoins = 2,  // the sender was left out, and would hear the rounds again
  ready = 3,    // the sender has heard all up to `round`, and would contribute again
  // From the coordinator.
  proposal = 4,  // `round` shall be one of `set`, in place of more
  commit = 5,    // `round` is one of `set`
};

struct RoundMessage {
  RoundMessageKind kind = RoundMessageKind::holds;
  Iteration round = 0;
  RankSet set;
  // Of a commit: who contributes to the rounds from `round` + kRoundNotice on, and who only hears them.
  RankSet contributing;
  RankSet listening;
  friend bool operator==(const RoundMessage&, const RoundMessage&) = default;
};

// Rounds from the commit that announces something to the first for which it holds. Nobody begins that one
// before having seen the commit: a member has at most two rounds under way.
inline constexpr Iteration kRoundNotice = 3;

// With sets of nobody, in a world of that many members.
RoundMessage round_message(RoundMessageKind kind, Iteration round, std::uint32_t members);

Bytes encode(const RoundMessage& message);
// Throws Error(protocol), whose sentence names the sender.
RoundMessage decode_round_message(std::span<const std::byte> bytes, std::uint32_t members,
                                  const std::string& sender);

}  // namespace stella
