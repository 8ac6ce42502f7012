#include "net/frame.hpp"

#include <algorithm>

#include "base/bytes.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

bool known(std::uint8_t type) {
  return type >= static_cast<std::uint8_t>(FrameType::hello) &&
         type <= static_cast<std::uint8_t>(FrameType::weights);
}

}  // namespace

std::size_t body_limit(FrameType type) {
  switch (type) {
    case FrameType::hello:
      return kMaxHello;
    case FrameType::payload:
      return kMaxPayload;
    case FrameType::control:
      return kMaxControl;
    case FrameType::heartbeat:
      return 0;
    case FrameType::abort:
      return kMaxAbort;
    case FrameType::leave:
      return 0;
    case FrameType::round:
      return kMaxRound;
    case FrameType::weights:
      return kMaxWeights;
  }
  return 0;
}

std::string_view to_string(FrameType type) {
  switch (type) {
    case FrameType::hello:
      return "hello";
    case FrameType::payload:
      return "payload";
    case FrameType::control:
      return "control";
    case FrameType::heartbeat:
      return "heartbeat";
    case FrameType::abort:
      return "abort";
    case FrameType::leave:
      return "leave";
    case FrameType::round:
      return "round";
    case FrameType::weights:
      return "weights";
  }
  return "unknown";
}

FrameHeaderBytes encode(const FrameHeader& header) {
  Bytes bytes;
  bytes.reserve(kFrameHeaderSize);
  ByteWriter writer(bytes);
  writer.put(header.size);
  writer.put(static_cast<std::uint8_t>(header.type));
  writer.put<std::uint8_t>(0);
  writer.put<std::uint16_t>(0);
  FrameHeaderBytes out{};
  std::copy(bytes.begin(), bytes.end(), out.begin());
  return out;
}

FrameHeader decode_frame_header(std::span<const std::byte, kFrameHeaderSize> bytes,
                                const std::string& sender) {
  ByteReader reader(bytes, sender);
  const auto size = reader.get<std::uint32_t>();
  const auto type = reader.get<std::uint8_t>();
  const auto flags = reader.get<std::uint8_t>();
  const auto reserved = reader.get<std::uint16_t>();
  if (!known(type) || flags != 0 || reserved != 0) {
    throw Error(ErrorCode::protocol,
                sender + " sent a frame of type " + std::to_string(type) + " with flags " +
                    std::to_string(flags) + " and reserved bits " + std::to_string(reserved) +
                    ", which this version does not know; all members must run the same version");
  }
  const FrameHeader header{static_cast<FrameType>(type), size};
  if (size > body_limit(header.type)) {
    throw Error(ErrorCode::protocol, sender + " announced a " + std::string(to_string(header.type)) +
                                         " frame of " + std::to_string(size) + " bytes; the limit is " +
                                         std::to_string(body_limit(header.type)));
  }
  return header;
}

}  // namespace stella
