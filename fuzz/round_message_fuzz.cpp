// A message about rounds: it is refused with Error(protocol), or it is written as it came.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "exchange/round_message.hpp"
#include "fuzzing.hpp"
#include "stella/error.hpp"

using namespace stella;

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const std::uint32_t members : {1u, 10u, 64u}) {
    try {
      const Bytes again = encode(decode_round_message(bytes, members, "a member"));
      if (again != Bytes(bytes.begin(), bytes.end())) std::abort();
    } catch (const Error& error) {
      if (error.code() != ErrorCode::protocol) std::abort();
    }
  }
  return 0;
}

std::vector<stella::Bytes> stella::fuzz::examples() {
  std::vector<Bytes> all;
  for (const std::uint32_t members : {1u, 10u, 64u}) {
    RoundMessage commit = round_message(RoundMessageKind::commit, 7, members);
    commit.set = RankSet::all(members);
    commit.listening.add(members - 1);
    all.push_back(encode(commit));
  }
  return all;
}
