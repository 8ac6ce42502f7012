#include "kernels/bf16.hpp"

#include <bit>
#include <cmath>
#include <limits>
#include <numeric>

#include "kernels/block.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

// The nearest bf16 by comparing both neighbours in double; ties to the even one.
std::uint16_t nearest(float value) {
  const auto bits = std::bit_cast<std::uint32_t>(value);
  const auto low = static_cast<std::uint16_t>(bits >> 16);
  if ((bits & 0xffff) == 0) return low;
  const auto half = std::uint32_t{low} << 16 | 0x8000;  // halfway to the neighbour away from zero
  if (bits == half) return static_cast<std::uint16_t>(low + (low & 1));
  return static_cast<std::uint16_t>(low + (bits > half ? 1 : 0));
}

float value_of(std::uint16_t bf16) { return std::bit_cast<float>(std::uint32_t{bf16} << 16); }

// What take_blocks_bf16 sends of these values, in whole blocks.
std::vector<std::uint16_t> sent_of(std::vector<float> values) {
  std::vector<BlockId> blocks(values.size() / kBlock);
  std::iota(blocks.begin(), blocks.end(), 0);
  std::vector<std::uint16_t> sent(values.size());
  take_blocks_bf16(blocks, kBlock, values.data(), sent.data());
  return sent;
}

TEST(Bf16, EveryFiniteBf16SurvivesTheWayThereAndBack) {
  std::vector<std::uint16_t> all;
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    if (std::isfinite(value_of(static_cast<std::uint16_t>(bits))))
      all.push_back(static_cast<std::uint16_t>(bits));
  }
  ASSERT_EQ(all.size() % kBlock, 0u);
  on_every_target([&] {
    std::vector<float> values(all.size());
    from_bf16(all, values.data());
    EXPECT_EQ(sent_of(values), all);
  });
}

TEST(Bf16, WideningIsExactAtEveryLength) {
  Random random(seed());
  for (std::size_t size : {0, 1, 3, 4, 8, 15, 17, 33, 5000}) {
    std::vector<std::uint16_t> bits(size);
    std::vector<float> expected(size + 1, 77);
    for (std::size_t i = 0; i < size; ++i) {
      do {
        bits[i] = static_cast<std::uint16_t>(random());
      } while (std::isnan(value_of(bits[i])));
      expected[i] = value_of(bits[i]);
    }
    on_every_target([&] {
      std::vector<float> own(size + 1, 77);
      from_bf16(bits, own.data());
      EXPECT_TRUE(same_bits(own, expected));
    });
  }
}

TEST(TakeBlocksBf16, RoundsToTheNearestAndTiesToEven) {
  Random random(seed());
  std::vector<float> values(200 * kBlock);
  std::vector<std::uint16_t> expected;
  for (float& value : values) {
    do {
      auto bits = static_cast<std::uint32_t>(random());
      if (random() % 4 == 0) bits = (bits & 0xffff0000) | 0x8000;  // a tie
      value = std::bit_cast<float>(bits);
    } while (!std::isfinite(value) || !std::isfinite(value_of(nearest(value))));
    expected.push_back(nearest(value));
  }
  on_every_target([&] { EXPECT_EQ(sent_of(values), expected); });
}

TEST(TakeBlocksBf16, WhatIsSentAndWhatStaysAddUpExactly) {
  Random random(seed());
  const std::size_t total = 40;
  const auto before = normal(random, total * kBlock, 100);
  const auto blocks = some_blocks(random, total, 0.4);
  std::vector<float> expected = before;
  std::vector<std::uint16_t> expected_sent(blocks.size() * kBlock);
  for (std::size_t i = 0; i < expected_sent.size(); ++i) {
    float& value = expected[blocks[i / kBlock] * kBlock + i % kBlock];
    expected_sent[i] = nearest(value);
    value -= value_of(expected_sent[i]);
  }
  on_every_target([&] {
    auto residual = before;
    std::vector<std::uint16_t> sent(expected_sent.size());
    take_blocks_bf16(blocks, kBlock, residual.data(), sent.data());
    EXPECT_EQ(sent, expected_sent);
    EXPECT_TRUE(same_bits(residual, expected));
    for (std::size_t i = 0; i < sent.size(); ++i) {
      const std::size_t at = blocks[i / kBlock] * kBlock + i % kBlock;
      EXPECT_EQ(double{value_of(sent[i])} + residual[at], double{before[at]});
    }
  });
}

TEST(TakeBlocksBf16, NothingInfiniteLeavesAndTheRestStays) {
  const float largest_bf16 = value_of(0x7f7f);
  const float largest = std::numeric_limits<float>::max();
  on_every_target([&] {
    std::vector<float> residual(kBlock, 0.0f);
    residual[0] = largest;
    residual[1] = -largest;
    std::vector<std::uint16_t> sent(kBlock);
    const BlockId block = 0;
    take_blocks_bf16({&block, 1}, kBlock, residual.data(), sent.data());
    EXPECT_EQ(sent[0], 0x7f7f);
    EXPECT_EQ(sent[1], 0xff7f);
    EXPECT_EQ(residual[0], largest - largest_bf16);
    EXPECT_EQ(residual[1], largest_bf16 - largest);
  });
}

}  // namespace
}  // namespace stella
