// What a member says of its model before the first iteration: refused with Error(protocol), or read as a
// manifest that writes and reads back as itself.
#include <cstdint>
#include <cstdlib>

#include "engine/manifest.hpp"
#include "fuzzing.hpp"
#include "stella/error.hpp"

namespace {

void read(std::span<const std::byte> bytes) {
  try {
    const stella::Bytes written = stella::write_manifest(stella::read_manifest(bytes, "fuzz"));
    if (stella::write_manifest(stella::read_manifest(written, "fuzz")) != written) std::abort();
  } catch (const stella::Error& error) {
    if (error.code() != stella::ErrorCode::protocol) std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  read(bytes);
  // Past the version, the staleness, the bucket size and the groups.
  stella::Bytes manifest = stella::write_manifest({});
  manifest.pop_back();
  manifest.insert(manifest.end(), bytes.begin(), bytes.end());
  read(manifest);
  return 0;
}

std::vector<stella::Bytes> stella::fuzz::examples() {
  Manifest manifest;
  manifest.bucket_bytes = 4 << 20;
  manifest.groups.resize(2);
  manifest.groups[0].kind = OptimizerKind::adamw;
  manifest.tensors = {{"fc.weight", {128, 64}, "float32", 0}, {"fc.bias", {128}, "bfloat16", 1}};
  return {write_manifest(manifest), write_manifest({})};
}
