// The first bytes that a member believes: any bytes are either a hello that encodes back to themselves or an
// Error.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "membership/hello.hpp"
#include "stella/error.hpp"

namespace {

void decode(std::span<const std::byte> bytes) {
  try {
    const stella::Hello hello = stella::decode_hello(bytes, "the fuzzer");
    if (!std::ranges::equal(stella::encode(hello), bytes)) std::abort();
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
