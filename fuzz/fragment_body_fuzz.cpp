// What a member sends of a fragment under rule="local": it is refused with Error(protocol), or it holds all
// of the fragment's values, finite.
#include <cstdint>
#include <cstdlib>
#include <vector>

#include "engine/fragment_body.hpp"
#include "fuzzing.hpp"
#include "kernels/finite.hpp"
#include "stella/error.hpp"

namespace {

using namespace stella;

constexpr Fragment kFragment{5, 9};
const std::vector<ShortBlock> kShort{{3, 17}, {8, 1}};

void require(bool holds) {
  if (!holds) std::abort();
}

void read(std::span<const std::byte> bytes) {
  try {
    const Fragment peeked = peek_fragment(bytes, 20);
    require(peeked.blocks > 0 && peeked.first + peeked.blocks <= 20);
  } catch (const Error& error) {
    require(error.code() == ErrorCode::protocol);
  }
  try {
    const FragmentBody body = read_fragment_body(bytes, kFragment, kShort);
    require(body.values.size() == kFragment.blocks * kFragmentBlock);
    std::vector<float> values(body.values.size());
    body.values.read(0, values);
    require(find_nonfinite(values) == values.size());
  } catch (const Error& error) {
    require(error.code() == ErrorCode::protocol);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const auto bytes = std::as_bytes(std::span(data, size));
  read(bytes);
  // Behind the right fragment, which a fuzzer rarely guesses.
  Bytes body;
  ByteWriter writer(body);
  for (const std::uint64_t number : {std::size_t{1}, std::size_t{8}, kFragment.first, kFragment.blocks})
    writer.put_varint(number);
  writer.put_bytes(bytes);
  read(body);
  return 0;
}

std::vector<stella::Bytes> stella::fuzz::examples() {
  std::vector<Bytes> all;
  for (const ValueCoding coding :
       {ValueCoding::signs, ValueCoding::int1, ValueCoding::int8, ValueCoding::bf16, ValueCoding::fp32}) {
    std::vector<float> values(kFragment.blocks * kFragmentBlock, 0.5f);
    for (const ShortBlock& one : kShort) {
      float* block = values.data() + one.block * kFragmentBlock;
      std::fill(block + one.numel, block + kFragmentBlock, 0.0f);
    }
    all.push_back(write_fragment_body({3, 4}, kFragment, coding, kShort, values));
  }
  return all;
}
