// One fuzz target for a second, from a seed, without libFuzzer: with any compiler, in `make test`. What the
// target refuses to accept ends the process, as it does under the fuzzer.
#include <gtest/gtest.h>

#include <algorithm>

#include "fuzzing.hpp"
#include "kernels/kernel_testing.hpp"

namespace stella::fuzz {
namespace {

using testing::Random;

constexpr int kRounds = 20'000;

// A few bytes changed, most of them near the start, where sizes and kinds are; sometimes cut off or longer.
Bytes mutated(Bytes bytes, Random& random) {
  for (auto edits = random() % 4; edits > 0 && !bytes.empty(); --edits) {
    const std::size_t reach = random() % 2 == 0 ? bytes.size() : std::min<std::size_t>(bytes.size(), 24);
    std::byte& byte = bytes[random() % reach];
    byte = random() % 2 == 0 ? static_cast<std::byte>(random()) : byte ^ std::byte{1} << random() % 8;
  }
  if (random() % 8 == 0) bytes.resize(random() % (2 * bytes.size() + 2));
  return bytes;
}

void run(const Bytes& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(bytes.data()), bytes.size());
}

TEST(ShortRun, MutatedExamplesAreReadWellOrRefused) {
  const std::vector<Bytes> inputs = examples();
  ASSERT_FALSE(inputs.empty());
  for (const Bytes& input : inputs) {
    run(input);
    for (std::size_t size = 0; size < std::min<std::size_t>(input.size(), 300); ++size) {
      run({input.begin(), input.begin() + static_cast<std::ptrdiff_t>(size)});
    }
  }
  Random random(testing::seed());
  for (int round = 0; round < kRounds; ++round) run(mutated(inputs[random() % inputs.size()], random));
}

}  // namespace
}  // namespace stella::fuzz
