// The frame around everything that two members send each other. Format: docs/wire.md, "Frames".
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace stella {

enum class FrameType : std::uint8_t {
  hello = 1,      // the first frame each way
  payload = 2,    // of the exchange
  control = 3,    // of the collectives
  heartbeat = 4,  // proof of life
  abort = 5,      // the sender's run has failed; the body says why
  leave = 6,      // the sender ends in order; its last frame
  round = 7,      // who holds what, and what the coordinator makes of it
  weights = 8,    // for a member that was left out
};

inline constexpr std::size_t kFrameHeaderSize = 8;
inline constexpr std::size_t kMaxHello = 4096;
inline constexpr std::size_t kMaxPayload = std::size_t{64} << 20;
inline constexpr std::size_t kMaxControl = std::size_t{16} << 20;
inline constexpr std::size_t kMaxAbort = 4096;
inline constexpr std::size_t kMaxRound = 32 << 10;
inline constexpr std::size_t kMaxWeights = std::size_t{2} << 20;

struct FrameHeader {
  FrameType type;
  std::uint32_t size;  // of the body
  friend bool operator==(const FrameHeader&, const FrameHeader&) = default;
};

using FrameHeaderBytes = std::array<std::byte, kFrameHeaderSize>;

// The largest body of a frame of this type, in bytes.
std::size_t body_limit(FrameType type);
std::string_view to_string(FrameType type);

FrameHeaderBytes encode(const FrameHeader& header);

// Throws Error(protocol), whose sentence begins with `sender`, for an unknown type, non-zero reserved bits or
// a size over the type's limit: before anything is allocated for the body.
FrameHeader decode_frame_header(std::span<const std::byte, kFrameHeaderSize> bytes,
                                const std::string& sender);

}  // namespace stella
