// The first bytes that a member believes: any bytes are either an Error or a hello that encodes back to the
// same hello, and to themselves if their texts are UTF-8 (what is none is replaced).
#include <algorithm>
#include <array>
#include <cstdint>
#include <cstdlib>

#include "fuzzing.hpp"
#include "membership/hello.hpp"
#include "stella/error.hpp"

namespace {

// U+FFFD, which stands for bytes that are no UTF-8.
constexpr std::array<std::byte, 3> kReplacement{std::byte{0xef}, std::byte{0xbf}, std::byte{0xbd}};

void decode(std::span<const std::byte> bytes) {
  try {
    const stella::Hello hello = stella::decode_hello(bytes, "the fuzzer");
    const stella::Bytes encoded = stella::encode(hello);
    if (stella::decode_hello(encoded, "the fuzzer") != hello) std::abort();
    const bool replaced = std::search(encoded.begin(), encoded.end(), kReplacement.begin(),
                                      kReplacement.end()) != encoded.end();
    if (!replaced && !std::ranges::equal(encoded, bytes)) std::abort();
  } catch (const stella::Error&) {
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  decode(bytes);
  // Past the magic and the version, which a fuzzer rarely guesses.
  stella::Bytes hello = stella::encode(stella::Hello{});
  hello.resize(8);
  hello.insert(hello.end(), bytes.begin(), bytes.end());
  decode(hello);
  return 0;
}

std::vector<stella::Bytes> stella::fuzz::examples() {
  const Hello hello{.world_size = 4,
                    .rank = 2,
                    .port = 4242,
                    .peer_timeout = std::chrono::seconds(10),
                    .name = "c1m0",
                    .cluster = "c1",
                    .hostname = "gpu7",
                    .host = "",
                    .software = "stellatrain"};
  const Bytes whole = encode(hello);
  return {whole, Bytes(whole.begin() + 8, whole.end())};  // the target writes magic and version itself too
}
