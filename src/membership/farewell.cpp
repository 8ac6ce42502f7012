#include "membership/farewell.hpp"

#include "base/text.hpp"
#include "net/frame.hpp"

namespace stella {
namespace {

constexpr std::size_t kMaxSentence = kMaxAbort - 8;

// Numbers on the wire, which never change.
constexpr std::uint8_t kPeerLost = 1;
constexpr std::uint8_t kMismatch = 2;
constexpr std::uint8_t kProtocol = 3;
constexpr std::uint8_t kTimeout = 4;

std::uint8_t to_wire(ErrorCode code) {
  switch (code) {
    case ErrorCode::mismatch:
      return kMismatch;
    case ErrorCode::protocol:
      return kProtocol;
    case ErrorCode::timeout:
      return kTimeout;
    default:
      return kPeerLost;
  }
}

ErrorCode from_wire(std::uint8_t code) {
  switch (code) {
    case kMismatch:
      return ErrorCode::mismatch;
    case kProtocol:
      return ErrorCode::protocol;
    case kTimeout:
      return ErrorCode::timeout;
    default:
      return ErrorCode::peer_lost;
  }
}

}  // namespace

ErrorCode code_for_others(ErrorCode code) { return from_wire(to_wire(code)); }

Bytes encode(const Error& reason) {
  Bytes bytes;
  bytes.reserve(kMaxAbort);
  ByteWriter writer(bytes);
  writer.put(to_wire(reason.code()));
  writer.put_string(valid_utf8(reason.what(), kMaxSentence));
  return bytes;
}

Error decode_farewell(std::span<const std::byte> bytes, const std::string& sender) {
  ByteReader reader(bytes, "the abort frame of " + sender);
  const ErrorCode code = from_wire(reader.get<std::uint8_t>());
  const std::string sentence = valid_utf8(reader.get_string(kMaxSentence), kMaxSentence);
  reader.expect_end();
  return Error(code, sentence);
}

}  // namespace stella
