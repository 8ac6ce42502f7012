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

void decode(std::span<const std::byte> body, std::size_t total_blocks, std::size_t block) {
  try {
    const auto gradient = stella::decode_blocks(body, total_blocks, block);
    require(gradient.values.size() == gradient.blocks.size() * stella::kBlock);
    for (std::size_t k = 0; k < gradient.blocks.size(); ++k) {
      require(gradient.blocks[k] < total_blocks * (block / stella::kBlock));
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
    decode(body, total_blocks, 16);
  }
  decode(body, 300, 32);
  decode(body, 300, 64);
  return 0;
}

std::vector<stella::Bytes> stella::fuzz::examples() {
  std::vector<Bytes> bodies;
  std::vector<BlockId> every_third;
  for (BlockId id = 0; id < 300; id += 3) every_third.push_back(id);
  for (const ValueCoding values : {ValueCoding::fp32, ValueCoding::bf16, ValueCoding::int8, ValueCoding::int4,
                                   ValueCoding::int2, ValueCoding::int1}) {
    for (const std::vector<BlockId>& blocks :
         {std::vector<BlockId>{}, {1, 3}, {0, 17, 18, 299}, every_third}) {
      for (const std::size_t block : {std::size_t{16}, std::size_t{32}, std::size_t{64}}) {
        std::vector<float> residual(300 * block, 0.5f);
        bodies.emplace_back();
        encode_blocks(blocks, {values, block}, residual, bodies.back());
      }
    }
  }
  return bodies;
}
