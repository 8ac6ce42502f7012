// Frames as they come from a member: a header, then a body by its type. What is accepted encodes back to
// itself and announces no more than its type may; anything else is an Error.
#include <algorithm>
#include <cstdint>
#include <cstdlib>

#include "fuzzing.hpp"
#include "membership/control.hpp"
#include "membership/farewell.hpp"
#include "net/frame.hpp"
#include "stella/error.hpp"

namespace {

void decode_body(stella::FrameType type, std::span<const std::byte> bytes) {
  if (type == stella::FrameType::abort) stella::decode_farewell(bytes, "the fuzzer");
  if (type != stella::FrameType::control) return;
  const auto message = stella::decode_control({bytes.begin(), bytes.end()}, "the fuzzer");
  if (!std::ranges::equal(stella::encode(message.call, message.content()), bytes)) std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  if (size < stella::kFrameHeaderSize) return 0;
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    const auto start = bytes.first<stella::kFrameHeaderSize>();
    const stella::FrameHeader header = stella::decode_frame_header(start, "the fuzzer");
    if (header.size > stella::body_limit(header.type)) std::abort();
    if (!std::ranges::equal(stella::encode(header), start)) std::abort();
    decode_body(header.type, bytes.subspan(stella::kFrameHeaderSize));
  } catch (const stella::Error&) {
  }
  return 0;
}

std::vector<stella::Bytes> stella::fuzz::examples() {
  const auto frame = [](FrameType type, const Bytes& body) {
    const FrameHeaderBytes header = encode({type, static_cast<std::uint32_t>(body.size())});
    Bytes bytes(header.begin(), header.end());
    bytes.insert(bytes.end(), body.begin(), body.end());
    return bytes;
  };
  const Bytes content{std::byte{0xaa}, std::byte{0xbb}};
  return {frame(FrameType::control, encode(Call{3, Collective::all_gather, "model"}, content)),
          frame(FrameType::control, encode(Call{4, Collective::barrier, "model compared"}, {})),
          frame(FrameType::abort, encode(Error(ErrorCode::peer_lost, "member 2 sent nothing for 10 s"))),
          frame(FrameType::heartbeat, {}), frame(FrameType::leave, {})};
}
