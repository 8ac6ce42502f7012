#include "engine/layout.hpp"

#include <gtest/gtest.h>

#include <limits>
#include <map>

#include "kernels/kernel_testing.hpp"
#include "stella/error.hpp"

namespace stella::testing {
namespace {

TensorSpec tensor(std::vector<std::int64_t> shape, std::uint32_t group = 0) {
  return {"tensor", std::move(shape), "float32", group};
}

std::size_t blocks_of(std::size_t elements, std::size_t block) {
  return (elements + block - 1) / block * block / kBlock;
}

// Every element of every tensor lies in exactly one slice, in ascending order of buckets within its tensor.
void expect_every_element_once(std::span<const TensorSpec> tensors, std::span<const BucketLayout> buckets) {
  std::vector<std::size_t> seen(tensors.size());
  for (const BucketLayout& bucket : buckets) {
    for (const Slice& slice : bucket.slices) {
      EXPECT_EQ(slice.begin, seen[slice.tensor]) << "tensor " << slice.tensor;
      EXPECT_GT(slice.numel, 0u);
      seen[slice.tensor] += slice.numel;
    }
  }
  for (std::size_t i = 0; i < tensors.size(); ++i) EXPECT_EQ(seen[i], numel(tensors[i])) << "tensor " << i;
}

// Slices lie one behind the other, each from a block of its own on; nothing lies beyond the capacity.
void expect_sound(std::span<const TensorSpec> tensors, const BucketLayout& bucket, std::size_t capacity) {
  std::size_t blocks = 0;
  for (std::size_t i = 0; i < bucket.slices.size(); ++i) {
    const Slice& slice = bucket.slices[i];
    EXPECT_EQ(slice.offset, blocks * kBlock);
    EXPECT_EQ(slice.begin % bucket.block, 0u);
    EXPECT_EQ(tensors[slice.tensor].group, bucket.group);
    if (i > 0) {
      EXPECT_LT(bucket.slices[i - 1].tensor, slice.tensor);
    }
    blocks += blocks_of(slice.numel, bucket.block);
  }
  EXPECT_EQ(bucket.blocks, blocks);
  EXPECT_LE(bucket.blocks, capacity);
}

void expect_order_kept(std::span<const BucketLayout> buckets) {
  std::map<std::uint32_t, std::uint32_t> newest;  // by group: the tensor dealt out last
  for (const BucketLayout& bucket : buckets) {
    for (const Slice& slice : bucket.slices) {
      EXPECT_GE(slice.tensor, newest[bucket.group]);
      newest[bucket.group] = slice.tensor;
    }
  }
}

void expect_sound_plan(std::span<const TensorSpec> tensors, std::size_t bucket_bytes,
                       std::size_t block = kBlock) {
  const auto buckets = plan_buckets(tensors, bucket_bytes, block);
  expect_every_element_once(tensors, buckets);
  expect_order_kept(buckets);
  const std::size_t capacity = std::max(bucket_bytes / 64, block / kBlock);  // a block fits always
  for (const BucketLayout& bucket : buckets) {
    EXPECT_EQ(bucket.block, block);
    expect_sound(tensors, bucket, capacity);
  }
}

std::vector<TensorSpec> random_tensors(Random& random) {
  std::vector<TensorSpec> tensors{tensor({1})};
  const auto count = random() % 30;
  for (std::size_t i = 0; i < count; ++i) {
    const auto size = static_cast<std::int64_t>(random() % (random() % 4 == 0 ? 5000 : 70));
    const auto rows = static_cast<std::int64_t>(random() % 3);
    tensors.push_back(tensor({rows, size}, static_cast<std::uint32_t>(random() % 3)));
  }
  return tensors;
}

TEST(Layout, AnyModelIsDealtOutSoundly) {
  Random random(seed());
  for (int round = 0; round < 300; ++round) {
    SCOPED_TRACE("round " + std::to_string(round));
    const std::size_t block = std::size_t{16} << random() % 3;
    expect_sound_plan(random_tensors(random), 64 * (1 + random() % 100), block);
    if (HasFailure()) return;
  }
}

TEST(Layout, SmallTensorsShareABucketAndAHugeOneIsSliced) {
  const std::vector<TensorSpec> tensors{tensor({10}), tensor({20}), tensor({100, 100})};
  const auto buckets = plan_buckets(tensors, 4096);
  ASSERT_EQ(buckets.size(), 10u);  // 1 + 2 + 625 blocks, 64 in each
  EXPECT_EQ(buckets[0].slices.size(), 3u);
  EXPECT_EQ(buckets[9].slices.front().tensor, 2u);
  expect_sound_plan(tensors, 4096);
}

TEST(Layout, ATensorBeyondFourGigabytesIsDealtOutToItsLastElement) {
  constexpr std::int64_t kElements = (std::int64_t{3} << 30) + 5;  // 12 GiB
  const auto buckets = plan_buckets(std::vector{tensor({kElements})}, 4 << 20);
  std::size_t next = 0;
  for (const BucketLayout& bucket : buckets) {
    ASSERT_EQ(bucket.slices.size(), 1u);
    ASSERT_EQ(bucket.slices[0].begin, next);
    next += bucket.slices[0].numel;
  }
  EXPECT_EQ(next, static_cast<std::size_t>(kElements));
  EXPECT_EQ(buckets.back().slices[0].numel, 5u);
}

TEST(Layout, ParamGroupsNeverShareABucket) {
  const auto buckets = plan_buckets(std::vector{tensor({8}, 0), tensor({8}, 1), tensor({8}, 0)}, 1 << 20);
  ASSERT_EQ(buckets.size(), 2u);
  EXPECT_EQ(buckets[0].slices.size(), 2u);
  EXPECT_EQ(buckets[1].group, 1u);
}

TEST(Layout, TensorsWithoutElementsTakeNoPlaceAndScalarsTakeABlock) {
  const auto buckets = plan_buckets(std::vector{tensor({0, 7}), tensor({}), tensor({3, 0})}, 4096);
  ASSERT_EQ(buckets.size(), 1u);
  ASSERT_EQ(buckets[0].slices.size(), 1u);
  EXPECT_EQ(buckets[0].slices[0].tensor, 1u);
  EXPECT_EQ(buckets[0].blocks, 1u);
}

TEST(Layout, AModelWithoutElementsIsRefused) {
  EXPECT_THROW(plan_buckets({}, 4096), Error);
  EXPECT_THROW(plan_buckets(std::vector{tensor({0})}, 4096), Error);
}

TEST(Layout, AShapeThatCannotBeIsRefused) {
  constexpr auto kHuge = std::numeric_limits<std::int64_t>::max();
  for (const auto& shape :
       std::vector<std::vector<std::int64_t>>{{-1}, {kHuge, 2}, {1 << 30, 1 << 30, 1 << 30}}) {
    EXPECT_THROW(numel(tensor(shape)), Error) << shape_text(tensor(shape));
  }
}

TEST(Layout, ShapesReadAsInTorch) {
  EXPECT_EQ(shape_text(tensor({})), "()");
  EXPECT_EQ(shape_text(tensor({3})), "(3,)");
  EXPECT_EQ(shape_text(tensor({3, 4})), "(3, 4)");
}

// By element of the bucket, how often it is visited.
std::vector<int> visits(const BucketLayout& bucket, std::span<const BlockId> blocks) {
  std::vector<int> count(bucket.blocks * kBlock);
  for_each_run(bucket, blocks, [&](const Slice& slice, std::size_t first, std::size_t size) {
    EXPECT_GE(first, slice.offset);
    EXPECT_LE(first + size, slice.offset + slice.numel);
    for (std::size_t i = first; i < first + size; ++i) ++count[i];
  });
  return count;
}

// The same by the definition: an element is visited if its block is chosen and it is no padding.
std::vector<int> expected_visits(const BucketLayout& bucket, std::span<const BlockId> blocks) {
  std::vector<int> chosen(bucket.blocks), count(bucket.blocks * kBlock);
  for (const BlockId block : blocks) chosen[block] = 1;
  for (const Slice& slice : bucket.slices) {
    for (std::size_t i = slice.offset; i < slice.offset + slice.numel; ++i) count[i] = chosen[i / kBlock];
  }
  return count;
}

TEST(Layout, RunsCoverExactlyTheElementsOfTheChosenBlocksWithoutPadding) {
  Random random(seed());
  for (int round = 0; round < 300; ++round) {
    const std::size_t block = std::size_t{16} << random() % 3;
    for (const auto& bucket : plan_buckets(random_tensors(random), 64 * (1 + random() % 100), block)) {
      const auto blocks = some_blocks(random, bucket.blocks, static_cast<double>(random() % 11) / 10);
      ASSERT_EQ(visits(bucket, blocks), expected_visits(bucket, blocks)) << "round " << round;
    }
  }
}

TEST(Layout, NeighbouringBlocksOfOneTensorAreOneRun) {
  const auto bucket = plan_buckets(std::vector{tensor({40}), tensor({40})}, 4096).front();
  std::vector<std::pair<std::size_t, std::size_t>> runs;
  for_each_run(bucket, std::vector<BlockId>{0, 1, 2, 3, 5},
               [&](const Slice&, std::size_t first, std::size_t size) { runs.emplace_back(first, size); });
  EXPECT_EQ(runs, (std::vector<std::pair<std::size_t, std::size_t>>{{0, 40}, {48, 16}, {80, 8}}));
}

}  // namespace
}  // namespace stella::testing
