// What a member says of its model before the first iteration: refused with Error(protocol), or read as a
// manifest that writes and reads back as itself.
#include <cstdint>
#include <cstdlib>

#include "engine/manifest.hpp"
#include "stella/error.hpp"

namespace {

void read(std::span<const std::byte> bytes) {
  try {
    const stella::Bytes written = stella::write_manifest(stella::read_manifest(bytes));
    if (stella::write_manifest(stella::read_manifest(written)) != written) std::abort();
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
