// What a member sends of a fragment under rule="local": a few numbers, and the encoded blocks. Format:
// docs/wire.md, "Payload", "Under rule="local"".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/bytes.hpp"
#include "compress/encoding.hpp"
#include "control/round_size.hpp"
#include "engine/fragments.hpp"

namespace stella {

// Values that share a step of their code: fragments are whole blocks of so many.
inline constexpr std::size_t kFragmentBlock = 64;
// Blocks of a fragment whose body fits a frame, whatever its coding holds.
std::size_t most_blocks(ValueCoding coding);

struct FragmentBody {
  RoundSize announced;   // that the sender would have later rounds be
  EncodedBlocks values;  // all blocks of the fragment
};

// Takes what is sent out of `values`, as encode_blocks() does.
//   short_blocks  of the fragment, which counts from 0
//   values        [fragment.blocks * kFragmentBlock]
// Throws Error(nonfinite).
Bytes write_fragment_body(const RoundSize& announced, const Fragment& fragment, ValueCoding coding,
                          std::span<const ShortBlock> short_blocks, std::span<float> values);

// `body` must outlive what is returned. Throws Error(protocol) for bytes that are none, or not of this
// fragment.
FragmentBody read_fragment_body(std::span<const std::byte> body, const Fragment& fragment,
                                std::span<const ShortBlock> short_blocks);

// The fragment that a body is of, of a model of so many blocks. Throws Error(protocol).
Fragment peek_fragment(std::span<const std::byte> body, std::size_t blocks);

}  // namespace stella
