// Ascending block ids as bytes: gaps in LEB128. Format: docs/encoding.md.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.hpp"
#include "base/ids.hpp"

namespace stella {

// Appends the strictly ascending `blocks`: the first id, then for each later one how many ids lie between it
// and the one before. Between one and five bytes each.
void encode_indices(std::span<const BlockId> blocks, Bytes& out);

// Reads `count` ids. Throws Error(protocol) if one is not below `total_blocks` or the bytes end early. The
// caller has made sure that `count` is at most the bytes that remain, so that a short message cannot ask for
// much memory.
std::vector<BlockId> decode_indices(ByteReader& reader, std::size_t count, std::uint64_t total_blocks);

}  // namespace stella
