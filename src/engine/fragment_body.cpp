#include "engine/fragment_body.hpp"

#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "stella/error.hpp"

namespace stella {

Bytes write_fragment_body(std::uint64_t announced_blocks, const Fragment& fragment, ValueCoding coding,
                          std::span<const ShortBlock> short_blocks, std::span<float> values) {
  Bytes body;
  ByteWriter writer(body);
  writer.put_varint(announced_blocks);
  writer.put_varint(fragment.first);
  writer.put_varint(fragment.blocks);
  std::vector<BlockId> all(fragment.blocks);
  std::iota(all.begin(), all.end(), BlockId{0});
  encode_blocks(all, {coding, kFragmentBlock, short_blocks}, values, body);
  return body;
}

FragmentBody read_fragment_body(std::span<const std::byte> body, const Fragment& fragment,
                                std::span<const ShortBlock> short_blocks) {
  ByteReader reader(body, "a fragment");
  const std::uint64_t announced = reader.get_varint();
  const std::uint64_t first = reader.get_varint();
  const std::uint64_t blocks = reader.get_varint();
  if (first != fragment.first || blocks != fragment.blocks) {
    throw Error(ErrorCode::protocol, "its fragment is " + std::to_string(blocks) + " blocks from " +
                                         std::to_string(first) + ", here it is " +
                                         std::to_string(fragment.blocks) + " from " +
                                         std::to_string(fragment.first));
  }
  EncodedBlocks values(reader.rest(), blocks, kFragmentBlock, short_blocks);
  if (values.blocks().size() != blocks) throw Error(ErrorCode::protocol, "its fragment lacks blocks");
  return {announced, std::move(values)};
}

}  // namespace stella
