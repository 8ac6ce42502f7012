// What a member contributes to one bucket in one iteration: a header and the encoded blocks. Format:
// docs/wire.md, "Payload".
#pragma once

#include <chrono>
#include <cstdint>
#include <span>

#include "base/bytes.hpp"
#include "base/ids.hpp"
#include "stella/engine.hpp"
#include "stella/optimizer_settings.hpp"

namespace stella {

inline constexpr std::uint8_t kPayloadVersion = 1;

// The consensus weights of one bucket, as their owner saw them. Bit-identical weights have equal digests.
struct Digest {
  Iteration iteration = 0;  // the newest one in them
  std::uint64_t value = 0;
  friend bool operator==(const Digest&, const Digest&) = default;
};

struct PayloadHeader {
  Level level = Level::active;  // how far the sender's data has gone
  Iteration iteration = 0;
  BucketId bucket = 0;
  double samples = 0;      // weight of the sender's gradient; 0: nothing contributed, and no body follows
  Digest digest;           // the sender's bucket when it wrote this
  GroupSettings settings;  // of the bucket's param_group
  friend bool operator==(const PayloadHeader&, const PayloadHeader&) = default;
};

// Whether a sample count is one that fp32 arithmetic can weight gradients with: 0, or from 1e-9 to 1e12.
bool usable_samples(double samples);

// One contribution as it crosses the network. `bytes` is the whole message; it owns what body() shows.
class Payload {
 public:
  // Header and encoded blocks (compress/encoding.hpp) of a contribution of ours.
  Payload(const PayloadHeader& header, std::span<const std::byte> body);
  // Parses a received message, which took so long from its first byte to its last. Throws Error(protocol).
  explicit Payload(Bytes message, std::chrono::nanoseconds taken = {});

  const PayloadHeader& header() const { return header_; }
  std::span<const std::byte> body() const { return std::span(bytes_).subspan(body_begin_); }
  const Bytes& bytes() const { return bytes_; }
  // What its link needed for it, waiting for its sender aside; 0 for one of ours.
  std::chrono::nanoseconds taken() const { return taken_; }

 private:
  PayloadHeader header_;
  Bytes bytes_;
  std::size_t body_begin_ = 0;
  std::chrono::nanoseconds taken_{0};
};

}  // namespace stella
