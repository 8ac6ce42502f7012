#include "exchange/round_message.hpp"

#include <algorithm>

#include "stella/error.hpp"

namespace stella {
namespace {

// One bit for each rank, the lowest first; bits behind the last are 0.
void put_set(const RankSet& set, ByteWriter& writer) {
  for (Rank first = 0; first < set.members(); first += 8) {
    std::uint8_t bits = 0;
    for (Rank rank = first; rank < std::min<Rank>(first + 8, set.members()); ++rank)
      bits |= static_cast<std::uint8_t>(set.has(rank) << (rank - first));
    writer.put(bits);
  }
}

RankSet get_set(ByteReader& reader, std::uint32_t members, const std::string& sender) {
  RankSet set(members);
  for (Rank first = 0; first < members; first += 8) {
    const auto bits = reader.get<std::uint8_t>();
    for (Rank rank = first; rank < first + 8; ++rank) {
      if ((bits >> (rank - first) & 1) == 0) continue;
      if (rank >= members) {
        throw Error(ErrorCode::protocol, sender + " sent a message about rounds that names member " +
                                             std::to_string(rank) + " of " + std::to_string(members));
      }
      set.add(rank);
    }
  }
  return set;
}

}  // namespace

RoundMessage round_message(RoundMessageKind kind, Iteration round, std::uint32_t members) {
  return {kind, round, RankSet(members), RankSet(members), RankSet(members)};
}

Bytes encode(const RoundMessage& message) {
  Bytes bytes;
  ByteWriter writer(bytes);
  writer.put(static_cast<std::uint8_t>(message.kind));
  writer.put(message.round);
  for (const RankSet* set : {&message.set, &message.contributing, &message.listening}) put_set(*set, writer);
  return bytes;
}

RoundMessage decode_round_message(std::span<const std::byte> bytes, std::uint32_t members,
                                  const std::string& sender) {
  ByteReader reader(bytes, "a message about rounds of " + sender);
  const auto kind = reader.get<std::uint8_t>();
  if (kind < static_cast<std::uint8_t>(RoundMessageKind::holds) ||
      kind > static_cast<std::uint8_t>(RoundMessageKind::commit)) {
    throw Error(ErrorCode::protocol,
                sender + " sent a message about rounds of unknown kind " + std::to_string(kind));
  }
  RoundMessage message = round_message(static_cast<RoundMessageKind>(kind), 0, members);
  message.round = reader.get<Iteration>();
  for (RankSet* set : {&message.set, &message.contributing, &message.listening})
    *set = get_set(reader, members, sender);
  reader.expect_end();
  return message;
}

}  // namespace stella
