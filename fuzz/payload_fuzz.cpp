// A contribution as it comes from a member: it is refused with Error(protocol), or it writes back to the
// bytes that it was read from, and its body is empty or decodes or is refused likewise.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "compress/encoding.hpp"
#include "exchange/payload.hpp"
#include "fuzzing.hpp"
#include "kernels/block.hpp"
#include "stella/error.hpp"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void parse(std::span<const std::byte> bytes) {
  try {
    const stella::Payload payload(stella::Bytes(bytes.begin(), bytes.end()));
    const stella::PayloadHeader& header = payload.header();
    require(stella::usable_samples(header.samples));
    require(header.samples > 0 || payload.body().empty());
    require(std::ranges::equal(stella::Payload(header, payload.body()).bytes(), bytes));
    stella::decode_blocks(payload.body(), 64);
  } catch (const stella::Error& error) {
    require(error.code() == stella::ErrorCode::protocol);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  parse(bytes);
  // Behind a header that is right, which a fuzzer rarely guesses.
  stella::PayloadHeader header;
  header.samples = 1;
  parse(stella::Payload(header, bytes).bytes());
  return 0;
}

std::vector<stella::Bytes> stella::fuzz::examples() {
  PayloadHeader header;
  header.bucket = 7;
  header.iteration = 412;
  header.samples = 32;
  header.settings.kind = OptimizerKind::adamw;
  std::vector<float> residual(64 * kBlock, 0.5f);
  const std::vector<BlockId> blocks{0, 5, 63};
  Bytes body;
  encode_blocks(blocks, {ValueCoding::int4}, residual, body);
  const Payload full(header, body);
  header.samples = 0;
  const Payload empty(header, {});
  return {full.bytes(), empty.bytes(), body};
}
