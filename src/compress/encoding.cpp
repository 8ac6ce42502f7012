#include "compress/encoding.hpp"

#include <algorithm>
#include <array>
#include <bit>
#include <cassert>
#include <cstring>
#include <string>
#include <utility>

#include "compress/index_coding.hpp"
#include "compress/steps.hpp"
#include "kernels/bf16.hpp"
#include "kernels/finite.hpp"
#include "kernels/prefetch.hpp"
#include "kernels/quantize.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::uint8_t kVersion = 2;

// Wide values pass through the stack a chunk at a time: bytes of a message are not aligned.
constexpr std::size_t kChunk = kSignChunk;  // values
template <class T>
using Chunk = std::array<T, kChunk>;

// 0 for fp32 and bf16.
unsigned code_bits(ValueCoding coding) {
  switch (coding) {
    case ValueCoding::int8:
      return 8;
    case ValueCoding::int4:
      return 4;
    case ValueCoding::int2:
      return 2;
    case ValueCoding::int1:
      return 1;
    default:
      return 0;
  }
}

// Of the values alone, without a step, where all blocks take as many.
std::size_t bytes_per_block(const Coding& coding) {
  if (coding.values == ValueCoding::signs) return 0;
  if (const unsigned bits = code_bits(coding.values)) return code_bytes(bits, coding.block);
  return coding.block * (coding.values == ValueCoding::fp32 ? sizeof(float) : sizeof(std::uint16_t));
}

std::uint8_t log2_of(std::size_t block) { return static_cast<std::uint8_t>(std::countr_zero(block)); }

[[noreturn]] void refuse(const std::string& why) {
  throw Error(ErrorCode::protocol, "encoded blocks: " + why);
}

[[maybe_unused]] bool is_block_size(std::size_t block) { return block == 16 || block == 32 || block == 64; }

// Calls visit(k, numel) for each k of `blocks` that is short.
template <class Visit>
void for_each_short(std::span<const BlockId> blocks, std::span<const ShortBlock> short_blocks, Visit visit) {
  auto found = blocks.begin();
  for (const ShortBlock& one : short_blocks) {
    found = std::lower_bound(found, blocks.end(), one.block);
    if (found == blocks.end()) return;
    if (*found == one.block) visit(static_cast<std::size_t>(found - blocks.begin()), one.numel);
  }
}

[[noreturn]] void refuse_to_send(BlockId block) {
  throw Error(ErrorCode::nonfinite, "block " + std::to_string(block) +
                                        " of the gradient residual holds a NaN or an infinity and cannot be "
                                        "sent; look for an overflow in the loss, or clip gradients");
}

// Calls each(first, count) for as many blocks at a time as fill a Chunk.
template <class Each>
void for_each_chunk(std::size_t blocks, std::size_t block, Each each) {
  for (std::size_t first = 0; first < blocks; first += kChunk / block)
    each(first, std::min(kChunk / block, blocks - first));
}

// Appends the values as they are, checked while they are in the first cache; only then they leave the
// residual.
void send_fp32(std::span<const BlockId> blocks, std::size_t block, float* residual, ByteWriter& writer) {
  Chunk<float> sent;
  for_each_chunk(blocks.size(), block, [&](std::size_t first, std::size_t count) {
    for (std::size_t k = 0; k < count; ++k) {
      prefetch_block(blocks, first + k, residual, block);
      for (std::size_t part = 0; part < block; part += kBlock)  // a size known when compiled
        std::copy_n(residual + blocks[first + k] * block + part, kBlock, sent.data() + k * block + part);
    }
    const auto values = std::span(sent).first(count * block);
    if (const std::size_t bad = find_nonfinite(values); bad != values.size())
      refuse_to_send(blocks[first + bad / block]);
    writer.put_bytes(std::as_bytes(values));
  });
  for (const BlockId id : blocks) {
    for (std::size_t part = 0; part < block; part += kBlock)
      std::fill_n(residual + id * block + part, kBlock, 0.0f);
  }
}

void send_bf16(std::span<const BlockId> blocks, std::size_t block, float* residual, ByteWriter& writer) {
  Chunk<std::uint16_t> sent;
  for_each_chunk(blocks.size(), block, [&](std::size_t first, std::size_t count) {
    take_blocks_bf16(blocks.subspan(first, count), block, residual, sent.data());
    writer.put_bytes(std::as_bytes(std::span(sent).first(count * block)));
  });
}

// The step 2^(k/8) that each block's codes are best with. With 8 and 4 bits the largest value has the last
// level. With 2 bits the levels -3, -1, 1 and 3 are where the squared error of normal values is smallest,
// with 1 bit the level is their mean magnitude.
std::vector<int> best_steps(ValueCoding coding, std::vector<float>& magnitudes) {
  std::vector<int> steps(magnitudes.size());
  if (coding == ValueCoding::int8 || coding == ValueCoding::int4) {
    const float most = coding == ValueCoding::int8 ? 127.0f : 7.0f;
    for (float& magnitude : magnitudes) magnitude /= most;
    steps_above(magnitudes, steps.data());
  } else {
    const float level = coding == ValueCoding::int2 ? 0.625f : 1.0f;
    for (float& magnitude : magnitudes) magnitude *= level;
    steps_nearest(magnitudes, steps.data());
  }
  return steps;
}

// What a block's step follows from. Not finite where a value is not; a mean may overflow, too.
std::vector<float> magnitudes_of(std::span<const BlockId> blocks, const Coding& coding,
                                 const float* residual) {
  std::vector<float> magnitudes(blocks.size());
  const auto measure = code_bits(coding.values) >= 4 ? block_maxima : block_means;
  measure(blocks, coding.block, residual, magnitudes.data());
  return magnitudes;
}

void check_finite(std::span<const BlockId> blocks, std::size_t block, const float* residual) {
  const std::size_t k = find_nonfinite_block(blocks, block, residual);
  if (k != blocks.size()) refuse_to_send(blocks[k]);
}

void send_codes(std::span<const BlockId> blocks, const Coding& coding, std::vector<float> magnitudes,
                std::span<float> residual, Bytes& out) {
  const unsigned bits = code_bits(coding.values);
  if (bits < 4) {  // a mean is that of the elements, not of the padding
    for_each_short(blocks, coding.short_blocks, [&](std::size_t k, std::size_t numel) {
      magnitudes[k] *= static_cast<float>(coding.block) / static_cast<float>(numel);
    });
  }
  const std::vector<int> wanted = best_steps(coding.values, magnitudes);
  int largest = kLeastStep;
  for (const int k : wanted) largest = std::max(largest, k);

  const StepScale scale = StepScale::for_largest(largest);
  const auto table = scale.table();
  ByteWriter(out).put(scale.exponent);
  const std::size_t begin = out.size();
  out.resize(begin + blocks.size() * (1 + code_bytes(bits, coding.block)));
  auto* step_bytes = reinterpret_cast<std::uint8_t*>(out.data() + begin);
  std::vector<float>& steps = magnitudes;
  for (std::size_t k = 0; k < blocks.size(); ++k) {
    step_bytes[k] = scale.byte_of(wanted[k]);
    steps[k] = table[step_bytes[k]];
  }
  take_blocks_quantized(bits, blocks, coding.block, steps.data(), residual.data(),
                        step_bytes + blocks.size());
  for_each_short(blocks, coding.short_blocks, [&](std::size_t k, std::size_t numel) {
    float* values = residual.data() + blocks[k] * coding.block;
    std::fill(values + numel, values + coding.block, 0.0f);  // of codes of 2 and 1 bits none is 0
  });
}

// What stands before the indices.
struct Head {
  IndexCoding indices;
  ValueCoding values;
  std::size_t count;
};

Head read_head(ByteReader& reader, std::size_t total_blocks, std::size_t block) {
  if (const auto version = reader.get<std::uint8_t>(); version != kVersion) {
    refuse("version " + std::to_string(version) + ", this build reads version " + std::to_string(kVersion));
  }
  const auto indices = reader.get<std::uint8_t>();
  if (indices > static_cast<std::uint8_t>(IndexCoding::bit_map)) {
    refuse("unknown index coding " + std::to_string(indices));
  }
  const auto values = reader.get<std::uint8_t>();
  if (values > static_cast<std::uint8_t>(ValueCoding::signs)) {
    refuse("unknown value coding " + std::to_string(values));
  }
  if (const auto log2_block = reader.get<std::uint8_t>(); log2_block != log2_of(block)) {
    refuse("blocks of 2^" + std::to_string(log2_block) + " elements, here they have 2^" +
           std::to_string(log2_of(block)));
  }
  if (const auto total = reader.get_varint(); total != total_blocks) {
    refuse("the sender's bucket has " + std::to_string(total) + " blocks, here it has " +
           std::to_string(total_blocks));
  }
  const auto count = reader.get_varint();
  const auto coding = static_cast<IndexCoding>(indices);
  if (count > total_blocks || (coding == IndexCoding::all && count != total_blocks)) {
    refuse(std::to_string(count) + " blocks sent of a bucket of " + std::to_string(total_blocks));
  }
  return {coding, static_cast<ValueCoding>(values), static_cast<std::size_t>(count)};
}

// Ids of blocks of `block` elements as ids of blocks of kBlock.
std::vector<BlockId> in_parts(std::vector<BlockId> blocks, std::size_t block) {
  const std::size_t parts = block / kBlock;
  if (parts == 1) return blocks;
  std::vector<BlockId> result;
  result.reserve(blocks.size() * parts);
  for (const BlockId id : blocks) {
    for (std::size_t part = 0; part < parts; ++part)
      result.push_back(static_cast<BlockId>(id * parts + part));
  }
  return result;
}

}  // namespace

ValueCoding coding_named(const std::string& wire) {
  constexpr std::pair<const char*, ValueCoding> kNames[] = {
      {"fp32", ValueCoding::fp32},  {"bf16", ValueCoding::bf16}, {"int8", ValueCoding::int8},
      {"int4", ValueCoding::int4},  {"int2", ValueCoding::int2}, {"int1", ValueCoding::int1},
      {"signs", ValueCoding::signs}};
  for (const auto& [name, coding] : kNames) {
    if (wire == name) return coding;
  }
  throw Error(ErrorCode::invalid_argument,
              "wire is '" + wire + "'; supported are fp32, bf16, int8, int4, int2, int1 and signs");
}

ValueCoding coding_of_bits(unsigned bits) {
  switch (bits) {
    case 0:
      return ValueCoding::signs;
    case 1:
      return ValueCoding::int1;
    case 2:
      return ValueCoding::int2;
    case 4:
      return ValueCoding::int4;
    case 8:
      return ValueCoding::int8;
    default:
      return ValueCoding::fp32;
  }
}

unsigned bits_of(ValueCoding coding) {
  if (const unsigned bits = code_bits(coding)) return bits;
  if (coding == ValueCoding::signs) return 0;
  return coding == ValueCoding::fp32 ? 32 : 16;
}

void encode_blocks(std::span<const BlockId> blocks, const Coding& coding, std::span<float> residual,
                   Bytes& out) {
  assert(is_block_size(coding.block) && residual.size() % coding.block == 0);
  const std::size_t total_blocks = residual.size() / coding.block;
  assert(blocks.empty() || blocks.back() < total_blocks);
  const unsigned bits = code_bits(coding.values);
  auto magnitudes = bits != 0 ? magnitudes_of(blocks, coding, residual.data()) : std::vector<float>();
  // Others are looked at when they are sent. A mean may overflow.
  const bool in_doubt =
      bits == 0 ? coding.values == ValueCoding::bf16 : find_nonfinite(magnitudes) != magnitudes.size();
  if (in_doubt) check_finite(blocks, coding.block, residual.data());

  const std::size_t before = out.size();
  out.reserve(out.size() + 24 + blocks.size() * (bytes_per_block(coding) + 3));
  ByteWriter writer(out);
  writer.put(kVersion);
  const std::size_t at_indices = out.size();
  writer.put(static_cast<std::uint8_t>(IndexCoding::all));  // until it is known
  writer.put(static_cast<std::uint8_t>(coding.values));
  writer.put(log2_of(coding.block));
  writer.put_varint(total_blocks);
  writer.put_varint(blocks.size());
  out[at_indices] = static_cast<std::byte>(encode_cheapest(blocks, total_blocks, out));

  if (coding.values == ValueCoding::fp32) {
    try {
      send_fp32(blocks, coding.block, residual.data(), writer);
    } catch (...) {
      out.resize(before);
      throw;
    }
  } else if (coding.values == ValueCoding::bf16) {
    send_bf16(blocks, coding.block, residual.data(), writer);
  } else if (coding.values == ValueCoding::signs) {
    if (!send_signs(blocks, coding.block, residual, out)) {
      out.resize(before);
      check_finite(blocks, coding.block, residual.data());
    }
  } else {
    send_codes(blocks, coding, std::move(magnitudes), residual, out);
  }
}

EncodedBlocks::EncodedBlocks(std::span<const std::byte> body, std::size_t total_blocks, std::size_t block,
                             std::span<const ShortBlock> short_blocks)
    : block_(block) {
  assert(is_block_size(block) && total_blocks <= (std::uint64_t{1} << 32) / (block / kBlock));
  ByteReader reader(body, "encoded blocks");
  const Head head = read_head(reader, total_blocks, block);
  coding_ = head.values;
  const unsigned bits = code_bits(head.values);
  // No sum overflows: count is at most total_blocks, 2^32, and a block has at most 256 bytes.
  const std::uint64_t value_bytes = head.count * bytes_per_block({head.values, block});
  const std::uint64_t step_bytes = bits != 0 ? head.count : 0;
  const bool signs = head.values == ValueCoding::signs;
  const std::uint64_t least_bytes = value_bytes + step_bytes +
                                    (signs ? SignedChunks::least_bytes(head.count, block) : 0) +
                                    least_index_bytes(head.indices, head.count, total_blocks);
  if (least_bytes > reader.remaining()) {
    refuse(std::to_string(head.count) + " blocks need at least " + std::to_string(least_bytes) + " bytes, " +
           std::to_string(reader.remaining()) + " are left");
  }
  blocks_ = decode_indices(head.indices, reader, head.count, total_blocks);
  if (signs) signs_.emplace(reader, head.count, block);
  if (bits != 0) table_ = StepScale{reader.get<std::int8_t>()}.table();
  steps_ = reader.take(static_cast<std::size_t>(step_bytes));
  values_ = reader.take(static_cast<std::size_t>(value_bytes));
  reader.expect_end();
  for_each_short(blocks_, short_blocks, [&](std::size_t k, std::size_t numel) {
    short_.push_back({k, numel});
  });
}

void EncodedBlocks::read(std::size_t at, std::span<float> values) const {
  assert(at % kChunk == 0 && at + values.size() <= size());
  assert(values.size() % kChunk == 0 || at + values.size() == size());
  const unsigned bits = code_bits(coding_);
  for (std::size_t done = 0; done < values.size(); done += kChunk) {
    const auto chunk = values.subspan(done, std::min(kChunk, values.size() - done));
    const std::size_t first = at + done;
    if (signs_) {
      signs_->read(first / kSignChunk, chunk);
    } else if (bits != 0) {
      std::array<float, kChunk / kBlock> steps;
      const std::size_t count = chunk.size() / block_;
      for (std::size_t k = 0; k < count; ++k)
        steps[k] = table_[std::to_integer<std::size_t>(steps_[first / block_ + k])];
      const auto* codes = reinterpret_cast<const std::uint8_t*>(values_.data());
      dequantize(bits, codes + first / block_ * code_bytes(bits, block_), std::span(steps).first(count),
                 block_, chunk.data());
    } else if (coding_ == ValueCoding::fp32) {
      std::memcpy(chunk.data(), values_.data() + first * sizeof(float), chunk.size_bytes());
    } else {
      Chunk<std::uint16_t> received;
      const auto part = std::span(received).first(chunk.size());
      std::memcpy(part.data(), values_.data() + first * sizeof(std::uint16_t), part.size_bytes());
      from_bf16(part, chunk.data());
    }
    if (const std::size_t bad = find_nonfinite(chunk); bad != chunk.size())
      refuse("block " + std::to_string(blocks_[(first + bad) / block_]) + " holds a NaN or an infinity");
  }
  // From the first short block on that could lie in here.
  auto next = std::ranges::lower_bound(short_, at / block_, {}, &Short::place);
  for (; next != short_.end() && next->place * block_ < at + values.size(); ++next) {
    const auto padded = values.subspan(next->place * block_ - at, block_).subspan(next->numel);
    std::ranges::fill(padded, 0.0f);
  }
}

std::optional<ListedValues> EncodedBlocks::list() const {
  if (!signs_) return std::nullopt;
  ListedValues listed;
  listed.reserve(signs_->count());
  auto next = short_.begin();
  signs_->for_each([&](std::size_t place, float value) {
    while (next != short_.end() && (next->place + 1) * block_ <= place) ++next;
    if (next != short_.end() && place >= next->place * block_ + next->numel) return;  // padding
    listed.add(static_cast<std::uint32_t>(place), value);
  });
  return listed;
}

SparseGradient decode_blocks(std::span<const std::byte> body, std::size_t total_blocks, std::size_t block,
                             std::span<const ShortBlock> short_blocks) {
  EncodedBlocks encoded(body, total_blocks, block, short_blocks);
  SparseGradient gradient;
  gradient.values = AlignedArray<float>::uninitialized(encoded.size());
  encoded.read(0, gradient.values);
  gradient.blocks = in_parts(std::move(encoded).take_blocks(), block);
  return gradient;
}

}  // namespace stella
