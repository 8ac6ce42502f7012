#include "compress/index_coding.hpp"

#include <limits>

#include "kernels/kernel_testing.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

using namespace testing;

constexpr std::uint64_t kEveryId = std::uint64_t{1} << 32;

Bytes encoded(std::span<const BlockId> blocks, IndexCoding coding = IndexCoding::gaps,
              std::uint64_t total = kEveryId) {
  Bytes bytes;
  encode_indices(coding, blocks, total, bytes);
  return bytes;
}

std::vector<BlockId> decoded(const Bytes& bytes, std::size_t count, std::uint64_t total,
                             IndexCoding coding = IndexCoding::gaps) {
  ByteReader reader(bytes, "test");
  auto blocks = decode_indices(coding, reader, count, total);
  EXPECT_EQ(reader.remaining(), 0u);
  return blocks;
}

TEST(IndexCoding, AscendingIdsOfAnyDensityRoundTrip) {
  Random random(seed());
  for (std::size_t total : {0, 1, 2, 127, 128, 129, 10000}) {
    for (double density : {0.0, 0.001, 0.1, 0.9, 1.0}) {
      const auto blocks = some_blocks(random, total, density);
      for (const IndexCoding coding : {IndexCoding::gaps, IndexCoding::bit_map}) {
        EXPECT_EQ(decoded(encoded(blocks, coding, total), blocks.size(), total, coding), blocks);
      }
    }
  }
}

TEST(IndexCoding, TheCheapestIsChosen) {
  Random random(seed());
  for (std::size_t total : {1, 7, 8, 9, 1000, 5000}) {
    for (double density : {0.0, 0.001, 0.02, 0.1, 0.125, 0.2, 0.9, 1.0}) {
      const auto blocks = some_blocks(random, total, density);
      Bytes bytes(3, std::byte{7});  // appended to, whichever is chosen
      const IndexCoding chosen = encode_cheapest(blocks, total, bytes);
      const std::size_t size = bytes.size() - 3;
      EXPECT_EQ(Bytes(bytes.begin() + 3, bytes.end()), encoded(blocks, chosen, total));
      for (const IndexCoding other : {IndexCoding::gaps, IndexCoding::bit_map}) {
        EXPECT_LE(size, encoded(blocks, other, total).size()) << total << " at " << density;
      }
      EXPECT_EQ(chosen == IndexCoding::all, blocks.size() == total);
      EXPECT_LE(least_index_bytes(chosen, blocks.size(), total), size);
      EXPECT_EQ(decoded(encoded(blocks, chosen, total), blocks.size(), total, chosen), blocks);
    }
  }
}

TEST(IndexCoding, ABitMapIsTheBytesOfTheDocument) {
  const std::vector<BlockId> blocks = {0, 3, 8, 9};
  EXPECT_EQ(encoded(blocks, IndexCoding::bit_map, 10), (Bytes{std::byte{0x09}, std::byte{0x03}}));
}

TEST(IndexCoding, ABitMapOfAnotherCountOrWithBlocksBeyondTheBucketIsRefused) {
  const Bytes bytes = {std::byte{0x09}, std::byte{0x03}};
  EXPECT_NO_THROW(decoded(bytes, 4, 10, IndexCoding::bit_map));
  EXPECT_THROW(decoded(bytes, 3, 10, IndexCoding::bit_map), Error);
  EXPECT_THROW(decoded(bytes, 5, 10, IndexCoding::bit_map), Error);
  EXPECT_THROW(decoded(bytes, 4, 9, IndexCoding::bit_map), Error);
  EXPECT_THROW(decoded(bytes, 4, 17, IndexCoding::bit_map), Error);
}

// The reference's 16-bit indices saturate: beyond 2^15 receivers apply other coordinates than the sender
// meant.
TEST(IndexCoding, IdsAroundEveryPowerOfTwoRoundTrip) {
  for (int power = 0; power <= 32; ++power) {
    const std::uint64_t middle = std::uint64_t{1} << power;
    for (std::uint64_t first = middle < 3 ? 0 : middle - 3; first < middle + 3 && first < kEveryId; ++first) {
      std::vector<BlockId> blocks = {static_cast<BlockId>(first)};
      EXPECT_EQ(decoded(encoded(blocks), 1, first + 1), blocks);
      if (first > 0) blocks.insert(blocks.begin(), 0);
      blocks.push_back(std::numeric_limits<BlockId>::max());
      if (blocks[blocks.size() - 2] == blocks.back()) blocks.pop_back();
      EXPECT_EQ(decoded(encoded(blocks), blocks.size(), kEveryId), blocks) << first;
    }
  }
}

TEST(IndexCoding, NeighboursTakeOneByteEach) {
  const std::vector<BlockId> blocks = {1000, 1001, 1002, 1130};
  EXPECT_EQ(encoded(blocks),
            (Bytes{std::byte{0xe8}, std::byte{7}, std::byte{0}, std::byte{0}, std::byte{127}}));
}

TEST(IndexCoding, AnIdThatTheBucketDoesNotHaveIsRefused) {
  const std::vector<BlockId> blocks = {3, 9};
  EXPECT_NO_THROW(decoded(encoded(blocks), 2, 10));
  EXPECT_THROW(decoded(encoded(blocks), 2, 9), Error);
  EXPECT_THROW(decoded(encoded(blocks), 2, 3), Error);
  EXPECT_THROW(decoded(encoded(blocks), 2, 0), Error);
}

TEST(IndexCoding, AGapThatWouldWrapAroundIsRefused) {
  for (std::uint64_t gap : {kEveryId - 1, kEveryId, std::numeric_limits<std::uint64_t>::max()}) {
    Bytes bytes;
    ByteWriter writer(bytes);
    writer.put_varint(5);
    writer.put_varint(gap);
    EXPECT_THROW(decoded(bytes, 2, kEveryId), Error) << gap;
  }
}

TEST(IndexCoding, BytesThatEndEarlyAreRefused) {
  const auto bytes = encoded(std::vector<BlockId>{300, 70000});
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ByteReader reader({bytes.data(), size}, "test");
    EXPECT_THROW(decode_indices(IndexCoding::gaps, reader, 2, 70001), Error) << size;
  }
}

}  // namespace
}  // namespace stella
