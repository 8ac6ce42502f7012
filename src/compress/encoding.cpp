#include "compress/encoding.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <numeric>
#include <string>

#include "compress/index_coding.hpp"
#include "kernels/bf16.hpp"
#include "kernels/block.hpp"
#include "kernels/finite.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::uint8_t kVersion = 1;
constexpr std::uint8_t kLog2Block = std::countr_zero(kBlock);
enum IndexCoding : std::uint8_t { kAllBlocks = 0, kGaps = 1 };

// Values pass through the stack a chunk at a time: bytes of a message are not aligned.
constexpr std::size_t kChunk = 64;  // blocks
template <class T>
using Chunk = std::array<T, kChunk * kBlock>;

std::size_t bytes_per_block(ValueCoding coding) {
  return kBlock * (coding == ValueCoding::fp32 ? sizeof(float) : sizeof(std::uint16_t));
}

[[noreturn]] void refuse(const std::string& why) {
  throw Error(ErrorCode::protocol, "encoded blocks: " + why);
}

void take_blocks(std::span<const BlockId> blocks, float* residual, float* sent) {
  for (const BlockId block : blocks) {
    float* values = residual + std::size_t{block} * kBlock;
    sent = std::copy_n(values, kBlock, sent);
    std::fill_n(values, kBlock, 0.0f);
  }
}

// Appends what `take` makes of each chunk of blocks.
template <class T>
void send(std::span<const BlockId> blocks, std::span<float> residual, ByteWriter& writer,
          void (*take)(std::span<const BlockId>, float*, T*)) {
  Chunk<T> sent;
  while (!blocks.empty()) {
    const auto chunk = blocks.first(std::min(kChunk, blocks.size()));
    take(chunk, residual.data(), sent.data());
    writer.put_bytes(std::as_bytes(std::span(sent).first(chunk.size() * kBlock)));
    blocks = blocks.subspan(chunk.size());
  }
}

AlignedArray<float> read_fp32(std::span<const std::byte> bytes) {
  AlignedArray<float> values(bytes.size() / sizeof(float));
  if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
  return values;
}

AlignedArray<float> read_bf16(std::span<const std::byte> bytes) {
  Chunk<std::uint16_t> received;
  AlignedArray<float> values(bytes.size() / sizeof(std::uint16_t));
  for (std::size_t at = 0; at < values.size(); at += received.size()) {
    const std::size_t count = std::min(received.size(), values.size() - at);
    std::memcpy(received.data(), bytes.data() + at * sizeof(std::uint16_t), count * sizeof(std::uint16_t));
    from_bf16(std::span(received).first(count), values.data() + at);
  }
  return values;
}

// What stands before the indices.
struct Head {
  bool all_blocks;
  ValueCoding values;
  std::size_t count;
};

Head read_head(ByteReader& reader, std::size_t total_blocks) {
  if (const auto version = reader.get<std::uint8_t>(); version != kVersion) {
    refuse("version " + std::to_string(version) + ", this build reads version " + std::to_string(kVersion));
  }
  const auto indices = reader.get<std::uint8_t>();
  if (indices != kAllBlocks && indices != kGaps) refuse("unknown index coding " + std::to_string(indices));
  const auto values = reader.get<std::uint8_t>();
  if (values > static_cast<std::uint8_t>(ValueCoding::bf16)) {
    refuse("unknown value coding " + std::to_string(values));
  }
  if (const auto log2_block = reader.get<std::uint8_t>(); log2_block != kLog2Block) {
    refuse("blocks of 2^" + std::to_string(log2_block) + " elements, this build has 2^" +
           std::to_string(kLog2Block));
  }
  if (const auto total = reader.get_varint(); total != total_blocks) {
    refuse("the sender's bucket has " + std::to_string(total) + " blocks, here it has " +
           std::to_string(total_blocks));
  }
  const auto count = reader.get_varint();
  if (count > total_blocks || (indices == kAllBlocks && count != total_blocks)) {
    refuse(std::to_string(count) + " blocks sent of a bucket of " + std::to_string(total_blocks));
  }
  return {indices == kAllBlocks, static_cast<ValueCoding>(values), static_cast<std::size_t>(count)};
}

}  // namespace

void encode_blocks(std::span<const BlockId> blocks, ValueCoding coding, std::span<float> residual,
                   Bytes& out) {
  assert(residual.size() % kBlock == 0);
  const std::size_t total_blocks = residual.size() / kBlock;
  assert(blocks.empty() || blocks.back() < total_blocks);
  if (const auto k = find_nonfinite_block(blocks, residual.data()); k != blocks.size()) {
    throw Error(ErrorCode::nonfinite,
                "block " + std::to_string(blocks[k]) +
                    " of the gradient residual holds a NaN or an infinity and cannot be sent; "
                    "look for an overflow in the loss, or clip gradients");
  }

  const bool all_blocks = blocks.size() == total_blocks;
  out.reserve(out.size() + 24 + blocks.size() * (bytes_per_block(coding) + 2));
  ByteWriter writer(out);
  writer.put(kVersion);
  writer.put<std::uint8_t>(all_blocks ? kAllBlocks : kGaps);
  writer.put(static_cast<std::uint8_t>(coding));
  writer.put(kLog2Block);
  writer.put_varint(total_blocks);
  writer.put_varint(blocks.size());
  if (!all_blocks) encode_indices(blocks, out);

  if (coding == ValueCoding::fp32) {
    send<float>(blocks, residual, writer, take_blocks);
  } else {
    send<std::uint16_t>(blocks, residual, writer, take_blocks_bf16);
  }
}

SparseGradient decode_blocks(std::span<const std::byte> body, std::size_t total_blocks) {
  ByteReader reader(body, "encoded blocks");
  const Head head = read_head(reader, total_blocks);
  const std::size_t value_bytes = head.count * bytes_per_block(head.values);
  const std::size_t least_bytes = value_bytes + (head.all_blocks ? 0 : head.count);
  if (least_bytes > reader.remaining()) {
    refuse(std::to_string(head.count) + " blocks need at least " + std::to_string(least_bytes) + " bytes, " +
           std::to_string(reader.remaining()) + " are left");
  }

  SparseGradient gradient;
  if (head.all_blocks) {
    gradient.blocks.resize(head.count);
    std::iota(gradient.blocks.begin(), gradient.blocks.end(), BlockId{0});
  } else {
    gradient.blocks = decode_indices(reader, head.count, total_blocks);
  }
  const auto bytes = reader.take(value_bytes);
  reader.expect_end();
  gradient.values = head.values == ValueCoding::fp32 ? read_fp32(bytes) : read_bf16(bytes);
  if (const auto at = find_nonfinite(gradient.values); at != gradient.values.size()) {
    refuse("block " + std::to_string(gradient.blocks[at / kBlock]) + " holds a NaN or an infinity");
  }
  return gradient;
}

}  // namespace stella
