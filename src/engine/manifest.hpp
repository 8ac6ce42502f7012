// The fingerprint of model and settings that members compare before they start.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "base/bytes.hpp"
#include "stella/engine.hpp"

namespace stella {

// What must be equal on all members: names, shapes, dtypes and groups of the parameters, the settings of the
// groups, rule, staleness, bucket size. Format: docs/wire.md, "Manifest".
struct Manifest {
  std::vector<TensorSpec> tensors;
  std::vector<GroupSettings> groups;
  std::string rule = "sparse";
  unsigned staleness = 1;
  std::size_t bucket_bytes = 0;
  std::size_t block = 16;  // EngineOptions::block
};

Bytes write_manifest(const Manifest& manifest);
// Throws Error(protocol); `sender` opens the sentence.
Manifest read_manifest(std::span<const std::byte> bytes, const std::string& sender);

// Throws Error(mismatch) that names the first difference with what stands on both sides.
//   who    the other member, as in "member 2 (c1m0, 10.77.0.3:4242)"
void expect_equal(const Manifest& here, const Manifest& there, const std::string& who);

}  // namespace stella
