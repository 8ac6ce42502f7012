#include "compress/encoding.hpp"

#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "compress/gradients.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

using namespace testing;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr ValueCoding kExact[] = {ValueCoding::fp32, ValueCoding::bf16};
constexpr ValueCoding kCodes[] = {ValueCoding::int8, ValueCoding::int4, ValueCoding::int2, ValueCoding::int1};
constexpr ValueCoding kCodings[] = {ValueCoding::fp32, ValueCoding::bf16, ValueCoding::int8,
                                    ValueCoding::int4, ValueCoding::int2, ValueCoding::int1,
                                    ValueCoding::signs};
constexpr std::size_t kSizes[] = {16, 32, 64};  // of a block

Bytes bytes_of(std::initializer_list<int> values) {
  Bytes bytes;
  for (const int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

Bytes encoded(std::span<const BlockId> blocks, ValueCoding values, std::vector<float>& residual,
              std::size_t block = kBlock) {
  Bytes bytes;
  encode_blocks(blocks, {values, block, {}}, residual, bytes);
  return bytes;
}

// Two of four blocks, the second with values 0, 1, ..., 15.
Bytes example(ValueCoding coding) {
  std::vector<float> residual(4 * kBlock);
  residual[kBlock] = -2;
  for (std::size_t i = 0; i < kBlock; ++i) residual[3 * kBlock + i] = static_cast<float>(i);
  return encoded(std::vector<BlockId>{1, 3}, coding, residual);
}

std::string error_of(std::span<const std::byte> body, std::size_t total_blocks) {
  try {
    decode_blocks(body, total_blocks);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::protocol);
    return error.what();
  }
  ADD_FAILURE() << "no error";
  return "";
}

bool contains(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

TEST(Encoding, TheBytesAreThoseOfTheDocument) {
  std::vector<float> residual(3 * kBlock);
  residual[2 * kBlock] = 1;
  residual[2 * kBlock + 15] = -0.5f;
  Bytes expected = bytes_of({2, 1, 1, 4, 3, 1, 2, 0x80, 0x3f});
  expected.resize(expected.size() + 28);
  for (const int last : {0x00, 0xbf}) expected.push_back(static_cast<std::byte>(last));
  EXPECT_EQ(encoded(std::vector<BlockId>{2}, ValueCoding::bf16, residual), expected);

  std::vector<float> dense(kBlock);
  dense[1] = 1;
  Bytes expected_dense = bytes_of({2, 0, 0, 4, 1, 1, 0, 0, 0, 0, 0, 0, 0x80, 0x3f});
  expected_dense.resize(6 + 64);
  EXPECT_EQ(encoded(std::vector<BlockId>{0}, ValueCoding::fp32, dense), expected_dense);
}

TEST(Encoding, TheBytesOfCodesAreThoseOfTheDocument) {
  // The second of two blocks: largest value 7, mean magnitude 1.
  std::vector<float> values(2 * kBlock);
  const float second[kBlock] = {7, -3, 2, -1, 1, -1, 0.5f, -0.5f};
  std::copy_n(second, kBlock, values.begin() + kBlock);
  const auto sent = [&](ValueCoding coding) {
    auto residual = values;
    return encoded(std::vector<BlockId>{1}, coding, residual);
  };
  Bytes expected = bytes_of({2, 1, 3, 4, 2, 1, 1, 0, 255, 0x5f, 0x7a, 0x79, 0x88});
  expected.resize(expected.size() + 4, std::byte{0x88});
  EXPECT_EQ(sent(ValueCoding::int4), expected);
  EXPECT_EQ(sent(ValueCoding::int1), bytes_of({2, 1, 5, 4, 2, 1, 1, 0, 255, 0xaa, 0x00}));
  // 2^(-5/8), which is nearest to 0.625, is 0.648; the zeros are sent as that, too.
  EXPECT_EQ(sent(ValueCoding::int2), bytes_of({2, 1, 4, 4, 2, 1, 1, 0, 250, 0x73, 0x66, 0xaa, 0xaa}));
}

TEST(Encoding, AnEmptyChoiceAndAnEmptyBucketAreSixBytes) {
  std::vector<float> residual(300 * kBlock), nothing;
  EXPECT_EQ(encoded({}, ValueCoding::fp32, residual), bytes_of({2, 1, 0, 4, 0xac, 2, 0}));
  EXPECT_EQ(encoded({}, ValueCoding::fp32, nothing), bytes_of({2, 0, 0, 4, 0, 0}));
  EXPECT_TRUE(decode_blocks(bytes_of({2, 1, 0, 4, 0xac, 2, 0}), 300).blocks.empty());
  EXPECT_TRUE(decode_blocks(bytes_of({2, 0, 0, 4, 0, 0}), 0).blocks.empty());
}

TEST(Encoding, IsAppendedToWhatIsThere) {
  std::vector<float> residual(2 * kBlock, 1.0f);
  Bytes bytes = bytes_of({9, 9, 9});
  encode_blocks(std::vector<BlockId>{1}, {ValueCoding::bf16, kBlock, {}}, residual, bytes);
  EXPECT_EQ(std::to_integer<int>(bytes[2]), 9);
  EXPECT_EQ(decode_blocks(std::span(bytes).subspan(3), 2).values[0], 1);
}

// The blocks of kBlock that blocks of another size consist of.
std::vector<BlockId> parts_of(std::span<const BlockId> blocks, std::size_t size) {
  std::vector<BlockId> parts;
  for (const BlockId block : blocks) {
    for (std::size_t part = 0; part < size / kBlock; ++part)
      parts.push_back(static_cast<BlockId>(block * (size / kBlock) + part));
  }
  return parts;
}

TEST(Encoding, Fp32ArrivesExactlyAndLeavesPlusZeroBehind) {
  Random random(seed());
  for (const std::size_t size : kSizes) {
    for (std::size_t total : {1, 2, 3, 65, 127, 128, 129, 2047, 2048, 2049}) {
      for (double density : {0.0, 0.01, 0.3, 0.99, 1.0}) {
        const auto blocks = some_blocks(random, total, density);
        const auto before = normal(random, total * size);
        auto residual = before;
        const auto received = decode_blocks(encoded(blocks, ValueCoding::fp32, residual, size), total, size);
        ASSERT_EQ(received.blocks, parts_of(blocks, size));
        auto expected = before;
        for (std::size_t k = 0; k < blocks.size(); ++k) {
          const auto block = std::span(expected).subspan(blocks[k] * size, size);
          EXPECT_TRUE(same_bits(received.values.span().subspan(k * size, size), block));
          std::fill(block.begin(), block.end(), 0.0f);
        }
        EXPECT_TRUE(same_bits(residual, expected));
      }
    }
  }
}

TEST(Encoding, Bf16LeavesTheRoundingErrorBehindOnEveryTarget) {
  Random random(seed());
  for (const std::size_t size : kSizes) {
    for (std::size_t total : {1, 63, 64, 65, 129, 1000}) {
      const auto before = normal(random, total * size);
      const auto blocks = some_blocks(random, total, 0.9);
      on_every_target([&] {
        auto residual = before;
        const auto received = decode_blocks(encoded(blocks, ValueCoding::bf16, residual, size), total, size);
        ASSERT_EQ(received.blocks, parts_of(blocks, size));
        for (std::size_t i = 0; i < received.values.size(); ++i) {
          const std::size_t at = blocks[i / size] * size + i % size;
          EXPECT_EQ(double{received.values[i]} + residual[at], double{before[at]});
          EXPECT_LE(std::fabs(residual[at]), std::fabs(before[at]) / 256);
        }
      });
    }
  }
}

// What a code says is what leaves the residual; the rest is no larger than the header of the kernel promises.
TEST(Encoding, CodesLeaveTheRoundingErrorBehindOnEveryTargetAndBlockSize) {
  Random random(seed());
  for (const ValueCoding coding : kCodes) {
    for (const std::size_t block : kSizes) {
      const std::size_t total = 70;
      const auto before = normal(random, total * block, 1e-4f);
      const auto blocks = some_blocks(random, total, 0.5);
      Bytes first;
      on_every_target([&] {
        auto residual = before;
        const Bytes bytes = encoded(blocks, coding, residual, block);
        if (first.empty()) first = bytes;
        EXPECT_EQ(bytes, first);
        const auto received = decode_blocks(bytes, total, block);
        ASSERT_EQ(received.blocks.size(), blocks.size() * (block / kBlock));
        double sent = 0, kept = 0;
        for (std::size_t i = 0; i < received.values.size(); ++i) {
          const std::size_t at = received.blocks[i / kBlock] * kBlock + i % kBlock;
          ASSERT_EQ(at, blocks[i / block] * block + i % block);
          EXPECT_EQ(residual[at], before[at] - received.values[i]);
          sent += double{before[at]} * before[at];
          kept += double{residual[at]} * residual[at];
        }
        // Of normal values; what is known of the best codes of so many levels: 0.36, 0.12, 0.01, 0.00004.
        const double limit = coding == ValueCoding::int1   ? 0.42
                             : coding == ValueCoding::int2 ? 0.16
                             : coding == ValueCoding::int4 ? 0.02
                                                           : 1e-4;
        EXPECT_LT(kept, limit * sent);
      });
    }
  }
}

// With codes, every step of the sum rounds: 2^-24 of the numbers that it adds.
TEST(Encoding, CodesSendEverythingInTheEnd) {
  Random random(seed());
  for (const ValueCoding coding : kCodes) {
    const std::size_t total = 20;
    std::vector<float> residual(total * kBlock), scores(total);
    std::vector<double> produced(residual.size()), sent(residual.size());
    for (int iteration = 0; iteration < 200; ++iteration) {
      const auto gradient = normal(random, residual.size());
      for (std::size_t i = 0; i < gradient.size(); ++i) produced[i] += gradient[i];
      accumulate_score(gradient, 1, residual.data(), scores.data());
      const auto blocks = some_blocks(random, total, 0.5);
      const auto received = decode_blocks(encoded(blocks, coding, residual), total);
      for (std::size_t i = 0; i < received.values.size(); ++i) {
        sent[received.blocks[i / kBlock] * kBlock + i % kBlock] += received.values[i];
      }
    }
    for (std::size_t i = 0; i < residual.size(); ++i) EXPECT_NEAR(sent[i] + residual[i], produced[i], 1e-3);
    for (const float value : residual) EXPECT_LT(std::fabs(value), 60);
  }
}

TEST(Encoding, BlocksOfEveryMagnitudeGoTogether) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (const ValueCoding coding : kCodes) {
    std::vector<float> residual(6 * kBlock);
    const float sizes[] = {kLargest, 1.0f, 1e-30f, std::numeric_limits<float>::denorm_min(), 0.0f, -kLargest};
    for (std::size_t i = 0; i < residual.size(); ++i) residual[i] = sizes[i / kBlock];
    const auto before = residual;
    const std::vector<BlockId> blocks = {0, 1, 2, 3, 4};
    const auto received = decode_blocks(encoded(blocks, coding, residual), 6);
    for (std::size_t i = 0; i < received.values.size(); ++i) {
      ASSERT_TRUE(std::isfinite(residual[i]));
      EXPECT_EQ(residual[i], before[i] - received.values[i]);
    }
    // What is too small beside the largest waits; alone it goes.
    EXPECT_EQ(residual[2 * kBlock], before[2 * kBlock]);
    encoded(std::vector<BlockId>{2}, coding, residual);
    EXPECT_LT(std::fabs(residual[2 * kBlock]), before[2 * kBlock]);
  }
}

TEST(Encoding, BlocksOfAnotherSizeThanTheReceiversAreRefused) {
  std::vector<float> residual(4 * 64, 1.0f);
  const Bytes bytes = encoded(std::vector<BlockId>{1}, ValueCoding::fp32, residual, 64);
  EXPECT_TRUE(contains(error_of(bytes, 4), "blocks of 2^6 elements, here they have 2^4"));
}

// Conservation: with integer gradients, what was sent and what is held is what came in.
TEST(Encoding, SentPlusHeldIsWhatCameInExactlyOverManyIterations) {
  Random random(seed());
  const std::size_t total = 50;
  for (const ValueCoding coding : kExact) {
    std::vector<float> residual(total * kBlock), scores(total);
    std::vector<double> produced(residual.size()), sent(residual.size());
    for (int iteration = 0; iteration < 300; ++iteration) {
      std::vector<float> gradient(residual.size());
      for (std::size_t i = 0; i < gradient.size(); ++i) {
        gradient[i] = static_cast<float>(static_cast<int>(random() % 2001) - 1000);
        produced[i] += gradient[i];
      }
      accumulate_score(gradient, 1, residual.data(), scores.data());
      const auto blocks = some_blocks(random, total, 0.2);
      const auto received = decode_blocks(encoded(blocks, coding, residual), total);
      for (std::size_t i = 0; i < received.values.size(); ++i) {
        sent[received.blocks[i / kBlock] * kBlock + i % kBlock] += received.values[i];
      }
      for (std::size_t i = 0; i < residual.size(); ++i) ASSERT_EQ(sent[i] + residual[i], produced[i]);
    }
  }
}

TEST(Encoding, ValuesBeyondBf16AreSentAsTheLargestOneAndTheRestStays) {
  std::vector<float> residual(kBlock, std::numeric_limits<float>::max());
  const auto received = decode_blocks(encoded(std::vector<BlockId>{0}, ValueCoding::bf16, residual), 1);
  EXPECT_EQ(received.values[0], std::bit_cast<float>(0x7f7f0000u));
  EXPECT_EQ(residual[0], std::numeric_limits<float>::max() - received.values[0]);
}

// In the first of them, in the last, and where a second thousand of values begins.
TEST(Encoding, ANonFiniteResidualIsNotSentAndNothingChanges) {
  constexpr std::size_t kTotal = 130;
  std::vector<BlockId> all(kTotal);
  std::iota(all.begin(), all.end(), BlockId{0});
  for (const ValueCoding coding : kCodings) {
    for (const std::size_t size : kSizes) {
      for (const std::size_t place : {std::size_t{0}, 1024 / size, kTotal - 1}) {
        for (const float bad : {kInf, -kInf, std::nanf("")}) {
          std::vector<float> residual(kTotal * size, 1.0f);
          residual[(place + 1) * size - 9] = bad;
          const auto before = residual;
          const Bytes there = bytes_of({9, 9, 9});
          Bytes bytes = there;
          try {
            encode_blocks(all, {coding, size, {}}, residual, bytes);
            FAIL() << "no error";
          } catch (const Error& error) {
            EXPECT_EQ(error.code(), ErrorCode::nonfinite);
            EXPECT_TRUE(contains(error.what(), "block " + std::to_string(place) + " of")) << error.what();
          }
          EXPECT_EQ(bytes, there);
          EXPECT_TRUE(same_bits(residual, before));
          std::vector<BlockId> others = all;
          others.erase(others.begin() + static_cast<std::ptrdiff_t>(place));
          EXPECT_NO_THROW(encode_blocks(others, {coding, size, {}}, residual, bytes));
        }
      }
    }
  }
}

// Of codes of 2 and 1 bits none is 0: what they say of padding must go nowhere.
TEST(Encoding, PaddingStaysZeroOnBothSides) {
  Random random(seed());
  for (const ValueCoding coding : kCodings) {
    for (const std::size_t size : kSizes) {
      const std::vector<ShortBlock> short_blocks = {{0, 1}, {2, size - 3}, {5, size / 2}};
      const std::vector<BlockId> blocks = {0, 1, 2, 4};
      std::vector<float> residual(6 * size);
      for (int iteration = 0; iteration < 5; ++iteration) {
        for (float& value : residual) value += normal(random, 1)[0];
        for (const ShortBlock& one : short_blocks)
          std::fill_n(&residual[one.block * size + one.numel], size - one.numel, 0.0f);
        const auto before = residual;
        Bytes bytes;
        encode_blocks(blocks, {coding, size, short_blocks}, residual, bytes);
        const auto received = decode_blocks(bytes, 6, size, short_blocks);
        for (std::size_t i = 0; i < received.values.size(); ++i) {
          const std::size_t at = blocks[i / size] * size + i % size;
          EXPECT_EQ(residual[at], before[at] - received.values[i]);
        }
        for (const ShortBlock& one : short_blocks) {
          for (std::size_t i = one.numel; i < size; ++i)
            EXPECT_EQ(std::bit_cast<std::uint32_t>(residual[one.block * size + i]), 0u);
        }
      }
    }
  }
}

// A tensor of one element is its own mean.
TEST(Encoding, TheStepOfAShortBlockIsThatOfItsElements) {
  for (const std::size_t size : kSizes) {
    const std::vector<ShortBlock> short_blocks = {{0, 1}};
    std::vector<float> residual(size);
    residual[0] = 4;
    Bytes bytes;
    encode_blocks(std::vector<BlockId>{0}, {ValueCoding::int1, size, short_blocks}, residual, bytes);
    EXPECT_EQ(residual[0], 0);
    EXPECT_EQ(decode_blocks(bytes, 1, size, short_blocks).values[0], 4);
  }
}

TEST(Decoding, EveryTruncationAndEveryExtraByteIsRefused) {
  for (const ValueCoding coding : kCodings) {
    Bytes bytes = example(coding);
    EXPECT_NO_THROW(decode_blocks(bytes, 4));
    for (std::size_t size = 0; size < bytes.size(); ++size) error_of(std::span(bytes).first(size), 4);
    bytes.push_back(std::byte{0});
    EXPECT_TRUE(contains(error_of(bytes, 4), "too many"));
  }
}

TEST(Decoding, ABucketOfAnotherSizeIsRefusedTellingBothSizes) {
  const auto error = error_of(example(ValueCoding::fp32), 5);
  EXPECT_TRUE(contains(error, "4 blocks") && contains(error, "5")) << error;
}

TEST(Decoding, UnknownVersionsCodingsAndBlockSizesAreRefused) {
  for (std::size_t place = 0; place < 4; ++place) {
    for (const int value : {0, 1, 2, 3, 4, 5, 6, 7, 255}) {
      Bytes bytes = example(ValueCoding::fp32);
      if (bytes[place] == static_cast<std::byte>(value)) continue;
      bytes[place] = static_cast<std::byte>(value);
      error_of(bytes, 4);
    }
  }
}

TEST(Decoding, ANonFiniteValueIsRefusedNamingItsBlock) {
  for (const float bad : {kInf, -kInf, std::nanf("")}) {
    Bytes bytes = example(ValueCoding::fp32);
    std::memcpy(bytes.data() + bytes.size() - 4, &bad, 4);
    EXPECT_TRUE(contains(error_of(bytes, 4), "block 3"));
    bytes = example(ValueCoding::bf16);
    std::memcpy(bytes.data() + bytes.size() - 2, reinterpret_cast<const char*>(&bad) + 2, 2);
    EXPECT_TRUE(contains(error_of(bytes, 4), "block 3"));
  }
}

TEST(Decoding, ACodeThatOverflowsItsStepIsRefusedNamingItsBlock) {
  Bytes bytes = bytes_of({2, 1, 2, 4, 3, 1, 2, 127, 255});  // block 2 of 3, steps up to 2^127
  bytes.resize(bytes.size() + kBlock, std::byte{255});      // times 127
  on_every_target([&] { EXPECT_TRUE(contains(error_of(bytes, 3), "block 2")); });
}

// A claim of 2^32 blocks in a short message must not allocate 256 GiB before it is refused.
TEST(Decoding, AHugeCountInAShortMessageIsRefusedBeforeAnythingIsAllocated) {
  const std::uint64_t every_id = std::uint64_t{1} << 32;
  for (const auto& [index_coding, value_coding] : std::vector<std::pair<int, int>>{
           {0, 0}, {1, 0}, {2, 0}, {0, 5}, {1, 5}, {2, 5}, {0, 6}, {1, 6}, {2, 6}}) {
    for (const std::uint64_t count : {every_id, every_id - 1, std::numeric_limits<std::uint64_t>::max()}) {
      Bytes bytes = bytes_of({2, index_coding, value_coding, 4});
      ByteWriter writer(bytes);
      writer.put_varint(every_id);
      writer.put_varint(count);
      bytes.resize(bytes.size() + 1000);
      error_of(bytes, every_id);
    }
  }
}

// What the fuzzer does, for a second and from a seed: whatever is decoded must be well formed.
TEST(Decoding, RandomMutationsEitherDecodeToSomethingWellFormedOrAreRefused) {
  Random random(seed());
  std::size_t refused = 0;
  for (int round = 0; round < 20000; ++round) {
    Bytes bytes = example(kCodings[random() % std::size(kCodings)]);
    for (std::uint64_t edits = random() % 4; edits > 0; --edits) {
      const std::size_t reach = random() % 2 ? bytes.size() : std::min<std::size_t>(bytes.size(), 9);
      bytes[random() % reach] = static_cast<std::byte>(random());
    }
    if (random() % 8 == 0) bytes.resize(1 + random() % (2 * bytes.size()));
    try {
      const auto gradient = decode_blocks(bytes, 4);
      ASSERT_EQ(gradient.values.size(), gradient.blocks.size() * kBlock);
      for (std::size_t k = 0; k < gradient.blocks.size(); ++k) {
        ASSERT_LT(gradient.blocks[k], 4u);
        ASSERT_TRUE(k == 0 || gradient.blocks[k - 1] < gradient.blocks[k]);
      }
      for (const float value : gradient.values.span()) ASSERT_TRUE(std::isfinite(value));
    } catch (const Error& error) {
      ASSERT_EQ(error.code(), ErrorCode::protocol);
      ++refused;
    }
  }
  EXPECT_GT(refused, 1000u);
}

}  // namespace
}  // namespace stella
