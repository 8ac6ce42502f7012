// Bytes from a peer: whatever decode_blocks makes of them is well formed, or refused with Error(protocol).
#include <cmath>
#include <cstdlib>
#include <limits>

#include "compress/encoding.hpp"
#include "fuzzing.hpp"
#include "kernels/block.hpp"
#include "stella/error.hpp"

namespace {

void require(bool holds) {
  if (!holds) std::abort();
}

void decode(std::span<const std::byte> body, std::size_t total_blocks) {
  try {
    const auto gradient = stella::decode_blocks(body, total_blocks);
    require(gradient.values.size() == gradient.blocks.size() * stella::kBlock);
    for (std::size_t k = 0; k < gradient.blocks.size(); ++k) {
      require(gradient.blocks[k] < total_blocks);
      require(k == 0 || gradient.blocks[k - 1] < gradient.blocks[k]);
    }
    for (const float value : gradient.values.span()) require(std::isfinite(value));
  } catch (const stella::Error& error) {
    require(error.code() == stella::ErrorCode::protocol);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto body = std::as_bytes(std::span(data, size));
  for (const std::size_t total_blocks :
       {std::size_t{0}, std::size_t{4}, std::size_t{300}, std::size_t{1} << 32}) {
    decode(body, total_blocks);
  }
  return 0;
}

std::vector<stella::Bytes> stella::fuzz::examples() {
  std::vector<Bytes> bodies;
  for (const ValueCoding coding : {ValueCoding::fp32, ValueCoding::bf16}) {
    for (const std::vector<BlockId>& blocks : {std::vector<BlockId>{}, {1, 3}, {0, 17, 18, 299}}) {
      std::vector<float> residual(300 * kBlock, 0.5f);
      bodies.emplace_back();
      encode_blocks(blocks, coding, residual, bodies.back());
    }
  }
  return bodies;
}
