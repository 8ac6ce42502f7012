// Bytes from a peer: whatever decode_blocks makes of them is well formed, or refused with Error(protocol).
#include <bit>
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

const std::vector<stella::ShortBlock> kShort = {{1, 5}, {3, 15}};

void decode(std::span<const std::byte> body, std::size_t total_blocks, std::size_t block) {
  try {
    const auto gradient = stella::decode_blocks(body, total_blocks, block, kShort);
    require(gradient.values.size() == gradient.blocks.size() * stella::kBlock);
    for (std::size_t k = 0; k < gradient.blocks.size(); ++k) {
      require(gradient.blocks[k] < total_blocks * (block / stella::kBlock));
      require(k == 0 || gradient.blocks[k - 1] < gradient.blocks[k]);
    }
    for (const float value : gradient.values.span()) require(std::isfinite(value));
    for (std::size_t i = 0; i < gradient.values.size(); ++i) {
      const std::size_t at =
          std::size_t{gradient.blocks[i / stella::kBlock]} * stella::kBlock + i % stella::kBlock;
      for (const stella::ShortBlock& one : kShort) {
        const bool padding = at >= one.block * block + one.numel && at < (one.block + 1) * block;
        if (padding) require(std::bit_cast<std::uint32_t>(gradient.values[i]) == 0);
      }
    }
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
  std::vector<BlockId> every_third, every_one;
  for (BlockId id = 0; id < 300; id += 3) every_third.push_back(id);
  for (BlockId id = 0; id < 300; ++id) every_one.push_back(id);
  const auto add = [&](const std::vector<BlockId>& blocks, std::size_t total, ValueCoding values,
                       std::size_t block) {
    std::vector<float> residual(total * block, 0.5f);
    bodies.emplace_back();
    encode_blocks(blocks, {values, block, {}}, residual, bodies.back());
  };
  for (const ValueCoding values : {ValueCoding::fp32, ValueCoding::bf16, ValueCoding::int8, ValueCoding::int4,
                                   ValueCoding::int2, ValueCoding::int1, ValueCoding::signs}) {
    for (const std::size_t block : {std::size_t{16}, std::size_t{32}, std::size_t{64}}) {
      add({}, 300, values, block);
      add({1, 3}, 300, values, block);
      add({0, 17, 18, 299}, 300, values, block);
      add(every_third, 300, values, block);
      add(every_one, 300, values, block);
    }
    add({}, 0, values, 16);
    add({3}, 4, values, 16);
    add({1, 3}, 4, values, 16);
    add({0, 1, 2, 3}, 4, values, 16);
  }
  return bodies;
}
