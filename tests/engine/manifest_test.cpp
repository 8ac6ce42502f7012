#include "engine/manifest.hpp"

#include <gtest/gtest.h>

#include "net/test_thread.hpp"
#include "stella/error.hpp"

namespace stella::testing {
namespace {

// The example of docs/wire.md, "Manifest".
constexpr std::uint8_t kGolden[] = {
    0x03, 0x06, 0x00, 0x00, 0x00, 's',  'p',  'a',  'r',  's',  'e',  // version, rule
    0x01, 0x00, 0x00, 0x00,                                           // staleness
    0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00,                   // bucket_bytes
    0x10, 0x00, 0x00, 0x00,                                           // block
    0x01, 0x02, 0x00,                                                 // one group: adamw
    0xfc, 0xa9, 0xf1, 0xd2, 0x4d, 0x62, 0x50, 0x3f, 0x7b, 0x14, 0xae, 0x47, 0xe1, 0x7a, 0x84, 0x3f,
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0xcd, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xec, 0x3f, 0x2b, 0x87, 0x16, 0xd9, 0xce, 0xf7, 0xef, 0x3f,
    0x3a, 0x8c, 0x30, 0xe2, 0x8e, 0x79, 0x45, 0x3e,                                     // eps
    0x01, 0x09, 0x00, 0x00, 0x00, 'f',  'c',  '.',  'w',  'e',  'i',  'g',  'h',  't',  // one tensor
    0x07, 0x00, 0x00, 0x00, 'f',  'l',  'o',  'a',  't',  '3',  '2',                    // dtype
    0x00, 0x02,                                                                         // group 0, two sizes
    0x80, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00};

Bytes golden() {
  const auto bytes = std::as_bytes(std::span(kGolden));
  return {bytes.begin(), bytes.end()};
}

Manifest example() {
  Manifest manifest;
  manifest.bucket_bytes = 4 << 20;
  manifest.groups.emplace_back();
  manifest.groups[0].kind = OptimizerKind::adamw;
  manifest.groups[0].weight_decay = 0.01;
  manifest.tensors.push_back({"fc.weight", {128, 64}, "float32", 0});
  return manifest;
}

TEST(Manifest, TheExampleOfTheDocumentationIsWrittenAndReadBack) {
  EXPECT_EQ(write_manifest(example()), golden());
  EXPECT_NO_THROW(expect_equal(example(), read_manifest(golden(), "member 1"), "member 1"));
}

TEST(Manifest, WhatIsCutOffOrTooLongIsRefused) {
  for (std::size_t size = 0; size < golden().size(); ++size) {
    const auto bytes = golden();
    EXPECT_EQ(error_of([&] { read_manifest(std::span(bytes).first(size), "member 1"); }).code(),
              ErrorCode::protocol)
        << size;
  }
  Bytes longer = golden();
  longer.emplace_back();
  const Error error = error_of([&] { read_manifest(longer, "member 1"); });
  EXPECT_EQ(error.code(), ErrorCode::protocol);
  EXPECT_NAMES(error, "member 1");
}

TEST(Manifest, AnyWrongByteIsRefusedOrReadAsAnotherManifest) {
  for (std::size_t place = 0; place < golden().size(); ++place) {
    for (int value = 0; value < 256; ++value) {
      Bytes bytes = golden();
      bytes[place] = static_cast<std::byte>(value);
      try {
        const Bytes again = write_manifest(read_manifest(bytes, "member 1"));
        EXPECT_EQ(write_manifest(read_manifest(again, "member 1")), again);
      } catch (const Error& error) {
        EXPECT_EQ(error.code(), ErrorCode::protocol) << error.what();
      }
    }
  }
}

TEST(Manifest, CountsBeyondTheBytesAreRefusedWithoutTakingMemoryForThem) {
  Bytes bytes;
  ByteWriter writer(bytes);
  const Bytes start = golden();
  writer.put_bytes(std::span(start).first(27));  // up to the count of groups
  writer.put_varint(~std::uint64_t{0});
  EXPECT_EQ(error_of([&] { read_manifest(bytes, "member 1"); }).code(), ErrorCode::protocol);
}

// The sentence about what `change` does to the other member's manifest.
std::string difference(const std::function<void(Manifest&)>& change) {
  Manifest there = example();
  change(there);
  const Error error = error_of([&] { expect_equal(example(), there, "member 2 (c1m0)"); });
  EXPECT_EQ(error.code(), ErrorCode::mismatch);
  EXPECT_NAMES(error, "member 2 (c1m0)");
  return error.what();
}

void expect_names(const std::string& sentence, const std::string& here, const std::string& there) {
  EXPECT_TRUE(contains(sentence, here)) << sentence;
  EXPECT_TRUE(contains(sentence, there)) << sentence;
}

TEST(Manifest, EveryDifferenceIsNamedWithBothSides) {
  expect_names(difference([](Manifest& m) { m.rule = "local"; }), "rule differs", "it is local");
  expect_names(difference([](Manifest& m) { m.staleness = 0; }), "staleness", "here it is 1");
  expect_names(difference([](Manifest& m) { m.bucket_bytes = 4096; }), "bucket_mib differs",
               "it is 0.00390625");
  expect_names(difference([](Manifest& m) { m.block = 64; }), "block differs", "it is 64");
  expect_names(difference([](Manifest& m) { m.tensors[0].name = "fc.bias"; }), "'fc.weight'", "'fc.bias'");
  expect_names(difference([](Manifest& m) { m.tensors[0].shape = {64, 128}; }), "(128, 64)", "(64, 128)");
  expect_names(difference([](Manifest& m) { m.tensors[0].dtype = "bfloat16"; }), "float32", "bfloat16");
  expect_names(difference([](Manifest& m) { m.tensors[0].group = 3; }), "param group 0", "param group 3");
  expect_names(difference([](Manifest& m) { m.tensors.clear(); }), "'fc.weight'", "nothing (it has only 0)");
  expect_names(difference([](Manifest& m) { m.groups.emplace_back(); }), "here it is 1", "it is 2");
  expect_names(difference([](Manifest& m) { m.groups[0].lr = 0.5; }), "lr is 0.001 here", "0.5 there");
}

TEST(Manifest, OfManyDifferencesTheFirstParameterIsNamed) {
  Manifest here = example(), there = example();
  for (Manifest* manifest : {&here, &there}) manifest->tensors.push_back({"fc.bias", {64}, "float32", 0});
  there.tensors[0].shape = {1};
  there.tensors[1].shape = {2};
  EXPECT_NAMES(error_of([&] { expect_equal(here, there, "member 1"); }), "parameter 0");
}

}  // namespace
}  // namespace stella::testing
