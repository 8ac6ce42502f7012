#include "compress/signs.hpp"

#include <algorithm>
#include <bit>
#include <cassert>
#include <cmath>
#include <optional>

#include "base/bits.hpp"
#include "compress/largest.hpp"
#include "compress/steps.hpp"
#include "kernels/finite.hpp"

namespace stella {
namespace {

std::size_t chunks_of(std::size_t blocks, std::size_t block) {
  const std::size_t each = kSignChunk / block;
  return (blocks + each - 1) / each;
}

// How one chunk lies in bits: of each told value the gap before it, a Golomb-Rice code, and its sign.
class SignCode {
 public:
  SignCode(std::size_t blocks, std::size_t block)
      : most_(blocks), size_(blocks * block), low_(static_cast<unsigned>(std::countr_zero(block)) - 1) {}

  // places: in the chunk, ascending; values: those there, not 0
  void write(std::span<const BlockId> places, std::span<const float> values, BitWriter& writer) const {
    std::size_t next = 0;
    for (std::size_t k = 0; k < places.size(); ++k) {
      put_gap(places[k] - next, writer);
      writer.put(std::signbit(values[k]), 1);
      next = std::size_t{places[k]} + 1;
    }
    if (places.size() < most_) put_gap(size_ - next, writer);
  }

  // Calls tell(place, negative) for each. Throws Error(protocol) for what write() does not write.
  template <class Tell>
  void read(BitReader& reader, Tell tell) const {
    std::size_t place = 0;
    for (std::size_t k = 0; k < most_; ++k, ++place) {
      place += get_gap(size_ - place, reader);
      if (place == size_) return;
      tell(place, reader.get(1) != 0);
    }
  }

 private:
  void put_gap(std::size_t gap, BitWriter& writer) const {
    writer.put_unary(gap >> low_);
    writer.put(static_cast<std::uint32_t>(gap) & ((std::uint32_t{1} << low_) - 1), low_);
  }
  std::size_t get_gap(std::size_t longest, BitReader& reader) const {
    const std::size_t gap = (reader.get_unary(longest >> low_) << low_) + reader.get(low_);
    if (gap > longest) reader.refuse_above(longest);
    return gap;
  }

  std::size_t most_;  // values that are told, at most: one for each block
  std::size_t size_;  // of the chunk
  unsigned low_;      // bits of a gap that are written as they are: told values lie a block apart
};

// The values of a chunk: where they are, if its blocks are neighbours, or else in `copy`.
std::span<const float> gathered(std::span<const BlockId> blocks, std::size_t block, const float* residual,
                                std::array<float, kSignChunk>& copy) {
  if (blocks.back() - blocks.front() + 1 == blocks.size())
    return {residual + blocks.front() * block, blocks.size() * block};
  for (std::size_t k = 0; k < blocks.size(); ++k)
    std::copy_n(residual + blocks[k] * block, block, copy.data() + k * block);
  return std::span(copy).first(blocks.size() * block);
}

// What is to be told.
struct Told {
  std::vector<BlockId> places;    // in their chunks
  std::vector<float> values;      // there
  std::vector<std::size_t> ends;  // of the chunks, in the two
  std::vector<float> magnitudes;  // of the chunks, their means: at least 0, or infinite
};

// Nothing if a value is not finite.
std::optional<Told> largest_of(std::span<const BlockId> blocks, std::size_t block, const float* residual) {
  Told told;
  LargestPlaces largest;
  std::array<float, kSignChunk> copy;
  std::array<BlockId, kSignChunk> places;
  const std::size_t each = kSignChunk / block;
  for (std::size_t first = 0; first < blocks.size(); first += each) {
    const auto chunk = blocks.subspan(first, std::min(each, blocks.size() - first));
    const auto values = gathered(chunk, block, residual, copy);
    if (find_nonfinite(values) != values.size()) return std::nullopt;
    const std::size_t found = largest.find(values, chunk.size(), places.data());
    float sum = 0;
    for (std::size_t k = 0; k < found; ++k) {
      told.places.push_back(places[k]);
      told.values.push_back(values[places[k]]);
      sum += std::fabs(values[places[k]]);
    }
    told.ends.push_back(told.places.size());
    told.magnitudes.push_back(found > 0 ? sum / static_cast<float>(found) : 0.0f);
  }
  return told;
}

}  // namespace

bool send_signs(std::span<const BlockId> blocks, std::size_t block, std::span<float> residual, Bytes& out) {
  const auto told = largest_of(blocks, block, residual.data());
  if (!told) return false;
  const std::size_t chunks = told->ends.size();
  std::vector<int> wanted(chunks);
  steps_nearest(told->magnitudes, wanted.data());
  int largest = kLeastStep;
  for (const int k : wanted) largest = std::max(largest, k);
  const StepScale scale = StepScale::for_largest(largest);
  const auto table = scale.table();
  ByteWriter writer(out);
  writer.put(scale.exponent);
  for (const int k : wanted) writer.put(scale.byte_of(k));

  BitWriter codes(out);
  const std::size_t each = kSignChunk / block;
  for (std::size_t chunk = 0, begin = 0; chunk < chunks; begin = told->ends[chunk++]) {
    const std::uint8_t byte = scale.byte_of(wanted[chunk]);
    if (byte == 0) continue;
    const auto ids = blocks.subspan(chunk * each, std::min(each, blocks.size() - chunk * each));
    const std::size_t count = told->ends[chunk] - begin;
    const auto places = std::span(told->places).subspan(begin, count);
    const auto values = std::span(told->values).subspan(begin, count);
    SignCode(ids.size(), block).write(places, values, codes);
    for (std::size_t k = 0; k < count; ++k) {
      float& left = residual[ids[places[k] / block] * block + places[k] % block];
      left -= std::copysign(table[byte], values[k]);
    }
  }
  return true;
}

std::size_t SignedChunks::least_bytes(std::size_t blocks, std::size_t block) {
  return 1 + chunks_of(blocks, block);
}

SignedChunks::SignedChunks(ByteReader& reader, std::size_t blocks, std::size_t block) {
  table_ = StepScale{reader.get<std::int8_t>()}.table();
  steps_ = reader.take(chunks_of(blocks, block));
  const auto codes = reader.take(reader.remaining());
  ends_.reserve(steps_.size());
  BitReader bits(codes, 0, "signs");
  const std::size_t each = kSignChunk / block;
  for (std::size_t chunk = 0; chunk < steps_.size(); ++chunk) {
    if (steps_[chunk] != std::byte{0}) {
      SignCode(std::min(each, blocks - chunk * each), block)
          .read(bits, [this](std::size_t place, bool negative) {
            told_.push_back(static_cast<Told>(2 * place + negative));
          });
    }
    ends_.push_back(told_.size());
  }
  bits.expect_end();
}

void SignedChunks::read(std::size_t chunk, std::span<float> values) const {
  std::ranges::fill(values, 0.0f);
  for_each_of(chunk, 0, [&](std::size_t place, float value) { values[place] = value; });
}

}  // namespace stella
