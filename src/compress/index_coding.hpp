// Ascending block ids as bytes: all of them, gaps in LEB128, or a bit map. Format: docs/encoding.md.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"

namespace stella {

// all      nothing: every block of the bucket
// gaps     the first id, then for each later one how many ids lie between it and the one before, as varints
// bit_map  one bit for each block of the bucket
enum class IndexCoding : std::uint8_t { all = 0, gaps = 1, bit_map = 2 };

// Appends the strictly ascending `blocks`, all below `total_blocks`, in the coding that takes the fewest
// bytes for them, gaps if two do. Returns which.
IndexCoding encode_cheapest(std::span<const BlockId> blocks, std::uint64_t total_blocks, Bytes& out);

// The same in the coding given.
void encode_indices(IndexCoding coding, std::span<const BlockId> blocks, std::uint64_t total_blocks,
                    Bytes& out);

// The least bytes that `count` ids take.
std::uint64_t least_index_bytes(IndexCoding coding, std::uint64_t count, std::uint64_t total_blocks);

// Reads `count` ids. Throws Error(protocol) if they are not `count` ascending ids below `total_blocks`, or
// the bytes end early. The caller has made sure that least_index_bytes() remain, so that a short message
// cannot ask for much memory; with `all`, that something else justifies `count` ids.
std::vector<BlockId> decode_indices(IndexCoding coding, ByteReader& reader, std::size_t count,
                                    std::uint64_t total_blocks);

}  // namespace stella
