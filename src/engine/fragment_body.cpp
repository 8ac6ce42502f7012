#include "engine/fragment_body.hpp"

#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "net/frame.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

struct Head {
  RoundSize announced;
  std::uint64_t first;
  std::uint64_t blocks;
};

Head read_head(ByteReader& reader) {
  const std::uint64_t blocks = reader.get_varint();
  const unsigned bits = reader.get<std::uint8_t>();
  if (!is_coding(bits))
    throw Error(ErrorCode::protocol, "it asks for values of " + std::to_string(bits) + " bits");
  const std::uint64_t first = reader.get_varint();
  return {{blocks, bits}, first, reader.get_varint()};
}

}  // namespace

// A block has a step of at most two bytes, bf16 and codes less than 32 bits for a value; as signs it takes
// less than two bytes in all.
std::size_t most_blocks(ValueCoding coding) {
  const std::size_t bits = coding == ValueCoding::bf16 ? 16 : bits_of(coding);
  const std::size_t bytes = kFragmentBlock * bits / 8 + 2;
  constexpr std::size_t kHeads = 4096;  // of the payload, the body and the encoding, with room
  return (kMaxPayload - kHeads) / bytes;
}

Bytes write_fragment_body(const RoundSize& announced, const Fragment& fragment, ValueCoding coding,
                          std::span<const ShortBlock> short_blocks, std::span<float> values) {
  Bytes body;
  ByteWriter writer(body);
  writer.put_varint(announced.blocks);
  writer.put(static_cast<std::uint8_t>(announced.bits));
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
  const auto [announced, first, blocks] = read_head(reader);
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

Fragment peek_fragment(std::span<const std::byte> body, std::size_t blocks) {
  ByteReader reader(body, "a fragment");
  const Head head = read_head(reader);
  if (head.blocks == 0 || head.blocks > blocks || head.first > blocks - head.blocks) {
    throw Error(ErrorCode::protocol, "its fragment is " + std::to_string(head.blocks) + " blocks from " +
                                         std::to_string(head.first) + ", the model has " +
                                         std::to_string(blocks));
  }
  return {head.first, head.blocks};
}

}  // namespace stella
