#include "exchange/payload.hpp"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <optional>

#include "net/test_thread.hpp"
#include "stella/error.hpp"

namespace stella::testing {
namespace {

// The example of docs/wire.md, "Payload": a header, and a body of two bytes.
constexpr std::uint8_t kGolden[] = {
    0x01, 0x00, 0x07, 0x00, 0x00, 0x00, 0x9c, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  // where it belongs
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x40, 0x40,                                      // samples
    0x9a, 0x01, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,                                      // digest: iteration
    0xef, 0xcd, 0xab, 0x89, 0x67, 0x45, 0x23, 0x01,                                      // digest: value
    0x02, 0x00,                                                                          // adamw
    0xfc, 0xa9, 0xf1, 0xd2, 0x4d, 0x62, 0x50, 0x3f, 0x7b, 0x14, 0xae, 0x47, 0xe1, 0x7a,
    0x84, 0x3f, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,
    0x00, 0x00, 0x00, 0x00, 0xcd, 0xcc, 0xcc, 0xcc, 0xcc, 0xcc, 0xec, 0x3f, 0x2b, 0x87,
    0x16, 0xd9, 0xce, 0xf7, 0xef, 0x3f, 0x3a, 0x8c, 0x30, 0xe2, 0x8e, 0x79, 0x45, 0x3e,  // eps
    0xaa, 0xbb};                                                                         // body

Bytes golden() {
  const auto bytes = std::as_bytes(std::span(kGolden));
  return {bytes.begin(), bytes.end()};
}

PayloadHeader golden_header() {
  PayloadHeader header;
  header.bucket = 7;
  header.iteration = 412;
  header.samples = 32;
  header.digest = {410, 0x0123456789abcdef};
  header.settings.kind = OptimizerKind::adamw;
  header.settings.weight_decay = 0.01;
  return header;
}

const Bytes kBody{std::byte{0xaa}, std::byte{0xbb}};

// Nothing if the bytes are refused as they must be.
std::optional<Payload> parse(Bytes bytes) {
  try {
    return Payload(std::move(bytes));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::protocol) << error.what();
    return std::nullopt;
  }
}

bool refused(const PayloadHeader& header) { return !parse(Payload(header, {}).bytes()); }

TEST(Payload, TheExampleOfTheDocumentationIsWhatIsWritten) {
  EXPECT_EQ(Payload(golden_header(), kBody).bytes(), golden());
}

TEST(Payload, TheExampleOfTheDocumentationIsReadBack) {
  const Payload payload(golden());
  EXPECT_EQ(payload.header(), golden_header());
  EXPECT_TRUE(std::ranges::equal(payload.body(), kBody));
}

TEST(Payload, EveryLevelAndAnEmptyContributionRoundTrip) {
  for (const Level level : {Level::active, Level::epoch_ended, Level::finished}) {
    PayloadHeader header = golden_header();
    header.level = level;
    header.samples = 0;
    const Payload read(Payload(header, {}).bytes());
    EXPECT_EQ(read.header(), header);
    EXPECT_TRUE(read.body().empty());
  }
}

TEST(Payload, WhatIsCutOffInItsHeaderIsRefused) {
  const std::size_t header = golden().size() - kBody.size();
  for (std::size_t size = 0; size < header; ++size) {
    Bytes bytes = golden();
    bytes.resize(size);
    EXPECT_FALSE(parse(bytes)) << "of " << size << " bytes";
  }
}

TEST(Payload, NoSingleWrongByteDoesMoreThanChangeTheHeaderOrGetItRefused) {
  for (std::size_t place = 0; place < golden().size(); ++place) {
    for (int value = 0; value < 256; ++value) {
      Bytes bytes = golden();
      bytes[place] = static_cast<std::byte>(value);
      const auto payload = parse(bytes);
      if (!payload) continue;
      EXPECT_TRUE(usable_samples(payload->header().samples));
      EXPECT_EQ(payload->body().size(), kBody.size());
      EXPECT_EQ(Payload(payload->header(), payload->body()).bytes(), bytes) << "at " << place;
    }
  }
}

TEST(Payload, ASampleCountThatCannotWeightAGradientIsRefused) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const double samples : {-1.0, kInfinity, -kInfinity, std::nan(""), 0.9e-9, 1.1e12}) {
    PayloadHeader header = golden_header();
    header.samples = samples;
    EXPECT_TRUE(refused(header)) << samples;
  }
  for (const double samples : {0.0, 1e-3, 1.0, 1e12}) {
    PayloadHeader header = golden_header();
    header.samples = samples;
    EXPECT_FALSE(refused(header)) << samples;
  }
}

TEST(Payload, AnEmptyContributionWithABodyIsRefused) {
  PayloadHeader header = golden_header();
  header.samples = 0;
  EXPECT_FALSE(parse(Payload(header, kBody).bytes()));
}

TEST(Payload, AnotherVersionIsRefusedByItsNumber) {
  Bytes bytes = golden();
  bytes[0] = std::byte{9};
  EXPECT_NAMES(error_of([&] { Payload{bytes}; }), "version 9");
}

TEST(Payload, AnUnknownLevelIsRefused) {
  Bytes bytes = golden();
  bytes[1] = std::byte{3};
  EXPECT_NAMES(error_of([&] { Payload{bytes}; }), "level 3");
}

}  // namespace
}  // namespace stella::testing
