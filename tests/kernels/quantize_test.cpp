#include "kernels/quantize.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "kernels/block.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella {
namespace {

using namespace testing;

constexpr unsigned kBits[] = {1, 2, 4, 8};
constexpr std::size_t kSizes[] = {16, 32, 64};  // of a block

int level_of(unsigned bits, int code) {
  return bits == 1 ? 1 - 2 * code : bits == 2 ? 2 * code - 3 : code - (1 << (bits - 1));
}

// The code of `x` as the header says it.
int nearest_code(unsigned bits, float x, float step) {
  if (bits == 1) return std::signbit(x) ? 1 : 0;
  if (bits == 2) return (x >= -2 * step) + (x >= 0) + (x >= 2 * step);
  const float most = static_cast<float>((1 << (bits - 1)) - 1);
  return static_cast<int>(std::nearbyint(std::clamp(x / step, -most, most))) + (1 << (bits - 1));
}

int code_at(unsigned bits, std::span<const std::uint8_t> codes, std::size_t i) {
  return codes[i * bits / 8] >> (i * bits % 8) & ((1 << bits) - 1);
}

TEST(BlockMagnitudes, AreThoseOfThePlainLoopOnEveryTargetAtEveryAlignment) {
  Random random(seed());
  for (const std::size_t block : kSizes) {
    for (const std::size_t shift : {0, 1, 5}) {
      const auto all = normal(random, 20 * block + shift);
      const std::span<const float> values = std::span(all).subspan(shift);
      const std::vector<BlockId> blocks = {0, 3, 4, 19};
      std::vector<float> maxima, means;
      for (const BlockId id : blocks) {
        float largest = 0, sum = 0;
        for (std::size_t i = 0; i < block; i += kBlock) {
          const auto x = [&](std::size_t at) { return std::fabs(values[id * block + i + at]); };
          float t[4];
          for (std::size_t j = 0; j < 4; ++j) t[j] = (x(j) + x(j + 8)) + (x(j + 4) + x(j + 12));
          sum += (t[0] + t[2]) + (t[1] + t[3]);
          for (std::size_t j = 0; j < kBlock; ++j) largest = std::max(largest, x(j));
        }
        maxima.push_back(largest);
        means.push_back(sum / static_cast<float>(block));
      }
      on_every_target([&] {
        std::vector<float> own(blocks.size());
        block_maxima(blocks, block, values.data(), own.data());
        EXPECT_TRUE(same_bits(own, maxima));
        block_means(blocks, block, values.data(), own.data());
        EXPECT_TRUE(same_bits(own, means));
      });
    }
  }
}

TEST(BlockMagnitudes, ASumBeyondFp32IsInfiniteAndTheLargestIsStillThere) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  const std::vector<float> values(16, -kLargest);
  const BlockId block = 0;
  on_every_target([&] {
    float maximum = 0, mean = 0;
    block_maxima({&block, 1}, 16, values.data(), &maximum);
    block_means({&block, 1}, 16, values.data(), &mean);
    EXPECT_EQ(maximum, kLargest);
    EXPECT_TRUE(std::isinf(mean));
  });
}

TEST(BlockMagnitudes, AreNotFiniteWhereAValueIsNot) {
  for (const float bad : {std::nanf(""), -std::nanf(""), std::numeric_limits<float>::infinity(),
                          -std::numeric_limits<float>::infinity()}) {
    for (const std::size_t block : kSizes) {
      on_every_target([&] {
        for (std::size_t place = 0; place < block; ++place) {
          std::vector<float> values(block, 1.0f);
          values[place] = bad;
          const BlockId id = 0;
          float maximum = 0, mean = 0;
          block_maxima({&id, 1}, block, values.data(), &maximum);
          block_means({&id, 1}, block, values.data(), &mean);
          EXPECT_FALSE(std::isfinite(maximum) || std::isfinite(mean));
        }
      });
    }
  }
}

TEST(TakeBlocksQuantized, SendsTheNearestCodesAndKeepsTheRestOnEveryTarget) {
  Random random(seed());
  for (const unsigned bits : kBits) {
    for (const std::size_t block : kSizes) {
      for (const std::size_t shift : {0, 3}) {
        const auto before = normal(random, 40 * block + shift);
        const auto blocks = some_blocks(random, 40, 0.4);
        std::vector<float> steps(blocks.size());
        for (float& step : steps) step = std::exp2(static_cast<float>(static_cast<int>(random() % 9) - 6));
        if (!steps.empty()) steps[0] = 0;
        on_every_target([&] {
          auto residual = before;
          std::vector<std::uint8_t> codes(blocks.size() * code_bytes(bits, block), 0xff);
          take_blocks_quantized(bits, blocks, block, steps.data(), residual.data() + shift, codes.data());
          auto expected = before;
          for (std::size_t k = 0; k < blocks.size(); ++k) {
            const auto own = std::span(codes).subspan(k * code_bytes(bits, block), code_bytes(bits, block));
            for (std::size_t i = 0; i < block; ++i) {
              float& x = expected[shift + blocks[k] * block + i];
              const int code = steps[k] == 0 ? 0 : nearest_code(bits, x, steps[k]);
              ASSERT_EQ(code_at(bits, own, i), code) << x << " with step " << steps[k];
              if (steps[k] != 0) x -= static_cast<float>(level_of(bits, code)) * steps[k];
            }
          }
          EXPECT_TRUE(same_bits(residual, expected));
        });
      }
    }
  }
}

TEST(TakeBlocksQuantized, TiesBoundsAndZerosGoWhereTheHeaderSays) {
  struct Case {
    unsigned bits;
    float value;
    int level;
  };
  // Just below a half: adding a half and cutting off would round it up.
  const float below_half = std::nextafter(0.5f, 0.0f);
  const Case cases[] = {{8, 0.5f, 0},   {8, 1.5f, 2},     {8, -0.5f, 0},    {8, below_half, 0},
                        {8, 1e9f, 127}, {8, -1e9f, -127}, {8, 126.5f, 126}, {4, 7.4f, 7},
                        {4, 2.5f, 2},   {4, -1e9f, -7},   {4, -0.0f, 0},    {2, 0.0f, 1},
                        {2, -0.0f, 1},  {2, -1e-9f, -1},  {2, 2.0f, 3},     {2, -2.0f, -1},
                        {2, 1e9f, 3},   {1, 0.0f, 1},     {1, -0.0f, -1},   {1, -1e9f, -1}};
  for (const Case& one : cases) {
    on_every_target([&] {
      std::vector<float> residual(16, one.value);
      std::vector<std::uint8_t> codes(2 * one.bits);
      std::vector<float> sent(16);
      const BlockId block = 0;
      const float step = 1;
      take_blocks_quantized(one.bits, {&block, 1}, 16, &step, residual.data(), codes.data());
      dequantize(one.bits, codes.data(), {&step, 1}, 16, sent.data());
      for (std::size_t i = 0; i < 16; ++i) {
        EXPECT_EQ(sent[i], static_cast<float>(one.level)) << one.bits << " bits, " << one.value;
        EXPECT_EQ(residual[i], one.value - sent[i]);
      }
    });
  }
}

TEST(Dequantize, EveryByteStandsForTheLevelsOfTheHeaderTimesTheStep) {
  std::vector<std::uint8_t> codes(256);
  for (std::size_t i = 0; i < codes.size(); ++i) codes[i] = static_cast<std::uint8_t>(i * 167);
  for (const unsigned bits : kBits) {
    for (const std::size_t block : kSizes) {
      const std::size_t blocks = codes.size() / code_bytes(bits, block);
      std::vector<float> steps(blocks);
      for (std::size_t k = 0; k < blocks; ++k) steps[k] = k % 5 == 3 ? 0 : 0.1f * static_cast<float>(k + 1);
      std::vector<float> expected;
      for (std::size_t k = 0; k < blocks; ++k) {
        const auto own = std::span(codes).subspan(k * code_bytes(bits, block), code_bytes(bits, block));
        for (std::size_t i = 0; i < block; ++i) {
          const float level = static_cast<float>(level_of(bits, code_at(bits, own, i)));
          expected.push_back(steps[k] == 0 ? 0.0f : level * steps[k]);
        }
      }
      on_every_target([&] {
        std::vector<float> values(expected.size() + 1);
        dequantize(bits, codes.data(), steps, block, values.data() + 1);
        EXPECT_TRUE(same_bits(std::span(values).subspan(1), expected)) << bits << " bits, " << block;
      });
    }
  }
}

}  // namespace
}  // namespace stella
