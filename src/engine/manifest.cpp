#include "engine/manifest.hpp"

#include <algorithm>
#include <sstream>

#include "engine/layout.hpp"
#include "optim/settings.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::uint8_t kManifestVersion = 3;
constexpr std::size_t kNameLimit = 4096;
constexpr std::size_t kRuleLimit = 16;

std::string describe(const TensorSpec& tensor) {
  return "'" + tensor.name + "' " + shape_text(tensor) + " " + tensor.dtype + " in param group " +
         std::to_string(tensor.group);
}

// Element i of a list, for an error; lists may differ in length.
template <class T, class Describe>
std::string at(const std::vector<T>& list, std::size_t i, Describe describe_one) {
  return i < list.size() ? describe_one(list[i])
                         : "nothing (it has only " + std::to_string(list.size()) + ")";
}

bool same(const TensorSpec& a, const TensorSpec& b) {
  return a.name == b.name && a.shape == b.shape && a.dtype == b.dtype && a.group == b.group;
}

// As bucket_mib in Python.
std::string in_mib(std::size_t bytes) {
  std::ostringstream text;
  text << static_cast<double>(bytes) / (1 << 20);
  return text.str();
}

[[noreturn]] void differ(const std::string& what, const std::string& here, const std::string& there,
                         const std::string& who) {
  throw Error(ErrorCode::mismatch, what + " differs between members: here it is " + here + ", on " + who +
                                       " it is " + there +
                                       "; all members must run the same script with the same settings");
}

}  // namespace

Bytes write_manifest(const Manifest& manifest) {
  Bytes bytes;
  ByteWriter writer(bytes);
  writer.put(kManifestVersion);
  writer.put_string(manifest.rule);
  writer.put<std::uint32_t>(manifest.staleness);
  writer.put<std::uint64_t>(manifest.bucket_bytes);
  writer.put<std::uint32_t>(static_cast<std::uint32_t>(manifest.block));
  writer.put_varint(manifest.groups.size());
  for (const GroupSettings& group : manifest.groups) write_settings(group, writer);
  writer.put_varint(manifest.tensors.size());
  for (const TensorSpec& tensor : manifest.tensors) {
    writer.put_string(tensor.name);
    writer.put_string(tensor.dtype);
    writer.put_varint(tensor.group);
    writer.put_varint(tensor.shape.size());
    for (const std::int64_t size : tensor.shape) writer.put(size);
  }
  return bytes;
}

Manifest read_manifest(std::span<const std::byte> bytes, const std::string& sender) {
  ByteReader reader(bytes, sender + ": manifest");
  const auto version = reader.get<std::uint8_t>();
  if (version != kManifestVersion) {
    throw Error(ErrorCode::protocol, sender + ": manifest version " + std::to_string(version) +
                                         " is not the supported " + std::to_string(kManifestVersion));
  }
  Manifest manifest;
  manifest.rule = reader.get_string(kRuleLimit);
  manifest.staleness = reader.get<std::uint32_t>();
  manifest.bucket_bytes = reader.get<std::uint64_t>();
  manifest.block = reader.get<std::uint32_t>();
  // No reserve() by a received count: each element read proves that it is there.
  for (std::uint64_t left = reader.get_varint(); left > 0; --left)
    manifest.groups.push_back(read_settings(reader));
  for (std::uint64_t left = reader.get_varint(); left > 0; --left) {
    TensorSpec tensor;
    tensor.name = reader.get_string(kNameLimit);
    tensor.dtype = reader.get_string(kNameLimit);
    tensor.group = static_cast<std::uint32_t>(reader.get_varint());
    for (std::uint64_t sizes = reader.get_varint(); sizes > 0; --sizes) {
      tensor.shape.push_back(reader.get<std::int64_t>());
    }
    manifest.tensors.push_back(std::move(tensor));
  }
  reader.expect_end();
  return manifest;
}

void expect_equal(const Manifest& here, const Manifest& there, const std::string& who) {
  if (here.rule != there.rule) differ("rule", here.rule, there.rule, who);
  if (here.staleness != there.staleness) {
    differ("staleness", std::to_string(here.staleness), std::to_string(there.staleness), who);
  }
  if (here.bucket_bytes != there.bucket_bytes) {
    differ("bucket_mib", in_mib(here.bucket_bytes), in_mib(there.bucket_bytes), who);
  }
  if (here.block != there.block) {
    differ("block", std::to_string(here.block), std::to_string(there.block), who);
  }
  const std::size_t tensors = std::max(here.tensors.size(), there.tensors.size());
  for (std::size_t i = 0; i < tensors; ++i) {
    if (i < here.tensors.size() && i < there.tensors.size() && same(here.tensors[i], there.tensors[i]))
      continue;
    differ("parameter " + std::to_string(i), at(here.tensors, i, describe), at(there.tensors, i, describe),
           who);
  }
  if (here.groups.size() != there.groups.size()) {
    differ("the number of param groups", std::to_string(here.groups.size()),
           std::to_string(there.groups.size()), who);
  }
  for (std::size_t i = 0; i < here.groups.size(); ++i) {
    if (const auto difference = first_difference(here.groups[i], there.groups[i])) {
      throw Error(ErrorCode::mismatch, "param group " + std::to_string(i) + " differs on " + who + ": " +
                                           *difference +
                                           "; all members must use the same optimizer settings");
    }
  }
}

}  // namespace stella
