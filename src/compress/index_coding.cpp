#include "compress/index_coding.hpp"

#include <cassert>
#include <string>

#include "stella/error.hpp"

namespace stella {

void encode_indices(std::span<const BlockId> blocks, Bytes& out) {
  ByteWriter writer(out);
  std::uint64_t lowest = 0;  // that the next id may be
  for (const BlockId block : blocks) {
    assert(block >= lowest);
    writer.put_varint(block - lowest);
    lowest = std::uint64_t{block} + 1;
  }
}

std::vector<BlockId> decode_indices(ByteReader& reader, std::size_t count, std::uint64_t total_blocks) {
  std::vector<BlockId> blocks(count);
  std::uint64_t lowest = 0;  // that the next id may be
  for (BlockId& block : blocks) {
    const std::uint64_t gap = reader.get_varint();
    if (lowest >= total_blocks || gap >= total_blocks - lowest) {
      throw Error(ErrorCode::protocol, "encoded blocks: a gap of " + std::to_string(gap) +
                                           " after block id " + std::to_string(lowest) +
                                           " leaves the bucket's " + std::to_string(total_blocks) +
                                           " blocks");
    }
    block = static_cast<BlockId>(lowest + gap);
    lowest += gap + 1;
  }
  return blocks;
}

}  // namespace stella
