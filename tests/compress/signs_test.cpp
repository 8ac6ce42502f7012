#include "compress/signs.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "compress/encoding.hpp"
#include "kernels/kernel_testing.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

using namespace testing;

constexpr std::size_t kBlockSize = 64;

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

std::vector<BlockId> all_of(std::size_t blocks) {
  std::vector<BlockId> all(blocks);
  std::iota(all.begin(), all.end(), BlockId{0});
  return all;
}

// As `residual` is told, all blocks of it.
std::vector<float> told(std::vector<float>& residual, std::size_t block, Bytes* bytes = nullptr) {
  const std::size_t blocks = residual.size() / block;
  Bytes body;
  encode_blocks(all_of(blocks), {ValueCoding::signs, block, {}}, residual, body);
  const auto received = decode_blocks(body, blocks, block);
  if (bytes != nullptr) *bytes = body;
  return {received.values.data(), received.values.data() + received.values.size()};
}

std::size_t count_of(std::span<const float> values) {
  return static_cast<std::size_t>(std::ranges::count_if(values, [](float value) { return value != 0; }));
}

TEST(Signs, TheBytesAreThoseOfTheDocument) {
  std::vector<float> residual(2 * kBlockSize);
  residual[3] = 1;
  residual[100] = -1;
  Bytes bytes;
  const auto values = told(residual, kBlockSize, &bytes);
  EXPECT_EQ(bytes, bytes_of({2, 0, 6, 6, 2, 2, 0, 255, 0x07, 0x04, 0x01}));
  EXPECT_EQ(values[3], 1);
  EXPECT_EQ(values[100], -1);
  EXPECT_EQ(count_of(values), 2u);
  EXPECT_EQ(count_of(residual), 0u);
}

TEST(Signs, FewerThanThereIsRoomForEndWithTheGapToTheEnd) {
  std::vector<float> residual(2 * kBlockSize);
  residual[127] = 1;
  Bytes bytes;
  EXPECT_EQ(told(residual, kBlockSize, &bytes)[127], 1);
  // A gap of 127, 3 x 32 + 31: 000 1 11111, plus; a gap of 0: 1 00000.
  EXPECT_EQ(bytes, bytes_of({2, 0, 6, 6, 2, 2, 0, 255, 0b1111'1000, 0b0000'0101}));
  EXPECT_EQ(told(residual, kBlockSize, &bytes), std::vector<float>(128));  // nothing is left to tell
  EXPECT_EQ(bytes.size(), 8u);
}

// One of each block on average: where they lie does not matter.
TEST(Signs, TheLargestOfEachChunkAreToldAsTheirMean) {
  Random random(seed());
  for (const std::size_t block : {16u, 32u, 64u}) {
    for (const std::size_t blocks : {std::size_t{1}, 1024 / block - 1, 1024 / block, 5 * 1024 / block + 3}) {
      const auto before = normal(random, blocks * block);
      Bytes first;
      on_every_target([&] {
        auto residual = before;
        Bytes bytes;
        const auto values = told(residual, block, &bytes);
        if (first.empty()) first = bytes;
        EXPECT_EQ(bytes, first);
        for (std::size_t at = 0; at < before.size(); at += kSignChunk) {
          const std::size_t size = std::min(kSignChunk, before.size() - at);
          std::vector<float> sorted;
          for (std::size_t i = at; i < at + size; ++i) sorted.push_back(std::fabs(before[i]));
          std::ranges::sort(sorted, std::greater<>());
          const std::size_t count = size / block;
          const double mean = std::accumulate(sorted.begin(), sorted.begin() + count, 0.0) / count;
          for (std::size_t i = at; i < at + size; ++i) {
            const bool large = std::fabs(before[i]) >= sorted[count - 1];
            ASSERT_EQ(values[i] != 0, large);
            EXPECT_EQ(residual[i], before[i] - values[i]);
            if (!large) continue;
            EXPECT_EQ(values[i] > 0, before[i] > 0);
            EXPECT_NEAR(std::fabs(values[i]), mean, mean * 0.05);  // to the nearest 2^(k/8)
          }
        }
      });
    }
  }
}

// Of 64 values one: 16 times 8.5 bits and a step for 1024.
TEST(Signs, TakeAboutANinthOfABitForAValue) {
  Random random(seed());
  auto residual = normal(random, 64 * 1024);
  Bytes bytes;
  told(residual, kBlockSize, &bytes);
  EXPECT_LT(bytes.size() * 8, residual.size() * 0.145);
}

TEST(Signs, OfSomeBlocksAreThoseOfTheBlocks) {
  Random random(seed());
  const auto before = normal(random, 200 * kBlockSize);
  const auto blocks = some_blocks(random, 200, 0.3);
  auto residual = before;
  Bytes body;
  encode_blocks(blocks, {ValueCoding::signs, kBlockSize, {}}, residual, body);
  const auto received = decode_blocks(body, 200, kBlockSize);
  std::vector<float> sent(before.size());
  for (std::size_t k = 0; k < received.blocks.size(); ++k)
    std::ranges::copy(received.values.span().subspan(k * kBlock, kBlock), &sent[received.blocks[k] * kBlock]);
  EXPECT_EQ(count_of(sent), blocks.size());
  for (std::size_t i = 0; i < before.size(); ++i) EXPECT_EQ(residual[i], before[i] - sent[i]);
}

// Everything is told in the end, if nothing new comes: the sum of what was told comes near what there was.
TEST(Signs, TellEverythingInTheEnd) {
  Random random(seed());
  const auto before = normal(random, 4 * kSignChunk);
  auto residual = before;
  for (int round = 0; round < 2000; ++round) told(residual, kBlockSize);
  double left = 0;
  for (const float value : residual) left += double{value} * value;
  EXPECT_LT(std::sqrt(left / static_cast<double>(residual.size())), 0.02);
}

TEST(Signs, AChunkTooSmallBesideTheLargestWaitsAndCostsAByte) {
  std::vector<float> residual(2 * kSignChunk, 1e-30f);
  residual[5] = 1e10f;
  std::vector<float> first(residual.begin(), residual.begin() + kSignChunk);
  Bytes bytes, bytes_of_first;
  told(first, kBlockSize, &bytes_of_first);
  const auto values = told(residual, kBlockSize, &bytes);
  EXPECT_EQ(bytes.size(), bytes_of_first.size() + 1);
  EXPECT_EQ(count_of(std::span(values).subspan(kSignChunk)), 0u);
  EXPECT_EQ(residual[2 * kSignChunk - 1], 1e-30f);
}

TEST(SignedChunks, PlacesOutsideOfTheChunkAreRefused) {
  const auto error_of = [](Bytes body) {
    try {
      decode_blocks(body, 2, kBlockSize);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::protocol);
      return std::string(error.what());
    }
    return std::string();
  };
  EXPECT_EQ(error_of(bytes_of({2, 0, 6, 6, 2, 2, 0, 255, 0x07, 0x04, 0x01})), "");
  // A gap of 128 ends the chunk; one of 129 and one of 5 x 32 lead behind it.
  EXPECT_EQ(error_of(bytes_of({2, 0, 6, 6, 2, 2, 0, 255, 0b0001'0000, 0b0})), "");
  EXPECT_NE(error_of(bytes_of({2, 0, 6, 6, 2, 2, 0, 255, 0b0011'0000, 0b0})), "");
  EXPECT_NE(error_of(bytes_of({2, 0, 6, 6, 2, 2, 0, 255, 0b0010'0000, 0b0})), "");
  // Two bytes are needed, and no third.
  EXPECT_NE(error_of(bytes_of({2, 0, 6, 6, 2, 2, 0, 255, 0b0001'0000})), "");
  EXPECT_NE(error_of(bytes_of({2, 0, 6, 6, 2, 2, 0, 255, 0b0001'0000, 0, 0})), "");
  // A chunk of step 0 has no codes.
  EXPECT_EQ(error_of(bytes_of({2, 0, 6, 6, 2, 2, 0, 0})), "");
  EXPECT_NE(error_of(bytes_of({2, 0, 6, 6, 2, 2, 0, 0, 0})), "");
}

}  // namespace
}  // namespace stella
