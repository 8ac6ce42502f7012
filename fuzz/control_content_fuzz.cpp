// What control messages of the table of addresses and of broadcasts hold: refused with Error(protocol), or
// read as something that writes back to the bytes that it was read from.
#include "membership/control_content.hpp"

#include <algorithm>
#include <cstdlib>

#include "fuzzing.hpp"
#include "stella/error.hpp"

namespace {

// What `rewrite` makes of the bytes must be they.
template <class Rewrite>
void expect_same(std::span<const std::byte> bytes, Rewrite rewrite) {
  try {
    if (!std::ranges::equal(rewrite(), bytes)) std::abort();
  } catch (const stella::Error& error) {
    if (error.code() != stella::ErrorCode::protocol) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  for (const std::size_t members : {0, 1, 3, 70'000}) {
    expect_same(bytes,
                [&] { return stella::encode_addresses(stella::decode_addresses(bytes, members, "fuzz")); });
  }
  expect_same(bytes, [&] { return stella::encode(stella::decode_chunk(bytes, "fuzz")); });
  expect_same(bytes, [&] { return stella::encode_consumed(stella::decode_consumed(bytes, "fuzz")); });
  return 0;
}

std::vector<stella::Bytes> stella::fuzz::examples() {
  const Bytes data(40, std::byte{7});
  return {encode_addresses({{"", 4242}, {"10.0.0.7", 29400}, {"gpu7.example.org", 1}}),
          encode(Chunk{1 << 20, 0, {}}), encode(Chunk{1 << 20, 4096, data}), encode_consumed(4096)};
}
