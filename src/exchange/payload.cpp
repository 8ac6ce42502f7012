#include "exchange/payload.hpp"

#include <string>
#include <utility>

#include "optim/settings.hpp"
#include "stella/error.hpp"

namespace stella {

bool usable_samples(double samples) { return samples == 0 || (samples >= 1e-9 && samples <= 1e12); }

Payload::Payload(const PayloadHeader& header, std::span<const std::byte> body) : header_(header) {
  bytes_.reserve(128 + body.size());
  ByteWriter writer(bytes_);
  writer.put(kPayloadVersion);
  writer.put(static_cast<std::uint8_t>(header.level));
  writer.put(header.bucket);
  writer.put(header.iteration);
  writer.put(header.samples);
  writer.put(header.digest.iteration);
  writer.put(header.digest.value);
  write_settings(header.settings, writer);
  body_begin_ = bytes_.size();
  writer.put_bytes(body);
}

Payload::Payload(Bytes message, std::chrono::nanoseconds taken) : bytes_(std::move(message)), taken_(taken) {
  ByteReader reader(bytes_, "payload");
  const auto version = reader.get<std::uint8_t>();
  if (version != kPayloadVersion) {
    throw Error(ErrorCode::protocol, "payload: version " + std::to_string(version) +
                                         " is not the supported " + std::to_string(kPayloadVersion));
  }
  const auto level = reader.get<std::uint8_t>();
  if (level > static_cast<std::uint8_t>(Level::finished)) {
    throw Error(ErrorCode::protocol, "payload: unknown level " + std::to_string(level));
  }
  header_.level = static_cast<Level>(level);
  header_.bucket = reader.get<BucketId>();
  header_.iteration = reader.get<Iteration>();
  header_.samples = reader.get<double>();
  if (!usable_samples(header_.samples)) {
    throw Error(ErrorCode::protocol, "payload: a sample count of " + std::to_string(header_.samples));
  }
  header_.digest.iteration = reader.get<Iteration>();
  header_.digest.value = reader.get<std::uint64_t>();
  header_.settings = read_settings(reader);
  body_begin_ = bytes_.size() - reader.remaining();
  if (header_.samples == 0) reader.expect_end();
}

}  // namespace stella
