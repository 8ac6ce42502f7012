#include "compress/index_coding.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cstring>
#include <numeric>
#include <string>

#include "stella/error.hpp"

namespace stella {
namespace {

std::uint64_t bit_map_bytes(std::uint64_t total_blocks) { return total_blocks / 8 + (total_blocks % 8 != 0); }

constexpr std::size_t kLongestGap = 5;  // bytes of a varint of 32 bits

// As ByteWriter::put_varint, without asking for room each time.
void encode_gaps(std::span<const BlockId> blocks, Bytes& out) {
  const std::size_t begin = out.size();
  out.resize(begin + kLongestGap * blocks.size());
  std::byte* to = out.data() + begin;
  std::uint64_t lowest = 0;  // that the next id may be
  for (const BlockId block : blocks) {
    assert(block >= lowest);
    std::uint64_t rest = block - lowest;
    for (; rest >= 0x80; rest >>= 7) *to++ = static_cast<std::byte>(rest | 0x80);
    *to++ = static_cast<std::byte>(rest);
    lowest = std::uint64_t{block} + 1;
  }
  out.resize(static_cast<std::size_t>(to - out.data()));
}

void encode_bit_map(std::span<const BlockId> blocks, std::uint64_t total_blocks, Bytes& out) {
  const std::size_t begin = out.size();
  out.resize(begin + bit_map_bytes(total_blocks));
  for (const BlockId block : blocks) out[begin + block / 8] |= std::byte{1} << block % 8;
}

void decode_gaps(ByteReader& reader, std::uint64_t total_blocks, std::span<BlockId> blocks) {
  std::uint64_t lowest = 0;
  for (BlockId& block : blocks) {
    const std::uint64_t gap = reader.get_varint();
    if (lowest >= total_blocks || gap >= total_blocks - lowest) {
      throw Error(ErrorCode::protocol, "encoded blocks: a gap of " + std::to_string(gap) + " from block id " +
                                           std::to_string(lowest) + " on leaves the bucket's " +
                                           std::to_string(total_blocks) + " blocks");
    }
    block = static_cast<BlockId>(lowest + gap);
    lowest += gap + 1;
  }
}

void decode_bit_map(ByteReader& reader, std::uint64_t total_blocks, std::span<BlockId> blocks) {
  auto bytes = reader.take(static_cast<std::size_t>(bit_map_bytes(total_blocks)));
  std::size_t found = 0;
  for (std::uint64_t first = 0; !bytes.empty(); first += 64) {
    std::uint64_t word = 0;
    const std::size_t size = std::min(bytes.size(), sizeof word);
    std::memcpy(&word, bytes.data(), size);
    bytes = bytes.subspan(size);
    for (; word != 0; word &= word - 1) {
      const std::uint64_t block = first + static_cast<std::uint64_t>(std::countr_zero(word));
      if (found == blocks.size() || block >= total_blocks) {
        throw Error(ErrorCode::protocol, "encoded blocks: the bit map has block " + std::to_string(block) +
                                             ", more than the " + std::to_string(blocks.size()) +
                                             " blocks sent of the bucket's " + std::to_string(total_blocks));
      }
      blocks[found++] = static_cast<BlockId>(block);
    }
  }
  if (found < blocks.size()) {
    throw Error(ErrorCode::protocol, "encoded blocks: the bit map has " + std::to_string(found) +
                                         " blocks, sent are " + std::to_string(blocks.size()));
  }
}

}  // namespace

IndexCoding encode_cheapest(std::span<const BlockId> blocks, std::uint64_t total_blocks, Bytes& out) {
  if (blocks.size() == total_blocks) return IndexCoding::all;
  const std::size_t begin = out.size();
  const std::uint64_t map = bit_map_bytes(total_blocks);
  if (blocks.size() <= map) {
    encode_indices(IndexCoding::gaps, blocks, total_blocks, out);
    if (out.size() - begin <= map) return IndexCoding::gaps;
    out.resize(begin);
  }
  encode_indices(IndexCoding::bit_map, blocks, total_blocks, out);
  return IndexCoding::bit_map;
}

void encode_indices(IndexCoding coding, std::span<const BlockId> blocks, std::uint64_t total_blocks,
                    Bytes& out) {
  if (coding == IndexCoding::gaps) encode_gaps(blocks, out);
  if (coding == IndexCoding::bit_map) encode_bit_map(blocks, total_blocks, out);
}

std::uint64_t least_index_bytes(IndexCoding coding, std::uint64_t count, std::uint64_t total_blocks) {
  if (coding == IndexCoding::all) return 0;
  return coding == IndexCoding::gaps ? count : bit_map_bytes(total_blocks);
}

std::vector<BlockId> decode_indices(IndexCoding coding, ByteReader& reader, std::size_t count,
                                    std::uint64_t total_blocks) {
  std::vector<BlockId> blocks(count);
  if (coding == IndexCoding::all) std::iota(blocks.begin(), blocks.end(), BlockId{0});
  if (coding == IndexCoding::gaps) decode_gaps(reader, total_blocks, blocks);
  if (coding == IndexCoding::bit_map) decode_bit_map(reader, total_blocks, blocks);
  return blocks;
}

}  // namespace stella
