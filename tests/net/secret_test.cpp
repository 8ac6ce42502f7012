#include "net/secret.hpp"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

class SecretFile : public ::testing::Test {
 protected:
  void SetUp() override {
    path_ = std::filesystem::temp_directory_path() / ("stella_secret_test_" + std::to_string(::getpid()));
  }
  void TearDown() override { std::filesystem::remove(path_); }
  void write(const std::string& text, mode_t mode) {
    std::ofstream(path_) << text;
    ::chmod(path_.c_str(), mode);
  }
  std::filesystem::path path_;
};

TEST(Secret, ANewTextIsAcceptedAndDiffersEveryTime) {
  const std::string text = RunSecret::new_text();
  EXPECT_EQ(text.size(), std::string("stella-secret-1:").size() + 43);
  EXPECT_NE(text, RunSecret::new_text());
  EXPECT_EQ(RunSecret::from_text(text).psk(), RunSecret::from_text(text).psk());
  EXPECT_NE(RunSecret::from_text(text).psk(), RunSecret::from_text(RunSecret::new_text()).psk());
}

TEST(Secret, TheKeyOfATextNeverChanges) {
  const std::string text(32, 'a');
  const RunSecret::Key key = RunSecret::from_text(text).psk();
  EXPECT_EQ(key, RunSecret::from_text(" \n" + text + "\r\n").psk());
  EXPECT_EQ(std::vector<int>(key.begin(), key.begin() + 4), (std::vector<int>{2, 243, 236, 142}));
}

TEST(Secret, WeakTextsAreRefusedWithoutBeingShown) {
  for (const std::string& text :
       {std::string(), std::string("hunter2"), std::string(31, 'x'), std::string("stella-secret-1:tooshort"),
        "stella-secret-1:" + std::string(42, 'A') + "!"}) {
    const Error error = error_of([&] { RunSecret::from_text(text); });
    EXPECT_EQ(error.code(), ErrorCode::configuration);
    EXPECT_FALSE(contains(error.what(), "hunter2"));
    EXPECT_FALSE(contains(error.what(), "AAAA"));
  }
}

TEST_F(SecretFile, IsReadWhenOnlyItsOwnerCan) {
  const std::string text = RunSecret::new_text();
  write(text + "\n", 0600);
  EXPECT_EQ(RunSecret::from_file(path_).psk(), RunSecret::from_text(text).psk());
}

TEST_F(SecretFile, IsRefusedWhenOthersCanReadItWithTheCommandThatHelps) {
  for (mode_t mode : {0640, 0604, 0620, 0644}) {
    write(RunSecret::new_text(), mode);
    const Error error = error_of([&] { RunSecret::from_file(path_); });
    EXPECT_EQ(error.code(), ErrorCode::configuration);
    EXPECT_NAMES(error, "chmod 600 " + path_.string());
  }
}

TEST(SecretFileVariable, ThatNamesADirectoryOrADeviceIsToldWithoutAdviceToChangeItsMode) {
  const std::vector<std::pair<std::string, std::string>> named = {{"/tmp", "is a directory"},
                                                                  {"/dev/null", "is no regular file"}};
  for (const auto& path_and_what : named) {
    const Error error = error_of([&] { RunSecret::from_file(path_and_what.first); });
    EXPECT_EQ(error.code(), ErrorCode::configuration);
    EXPECT_NAMES(error, path_and_what.first + " " + path_and_what.second);
    EXPECT_FALSE(contains(error.what(), "chmod"));
  }
}

TEST_F(SecretFile, OfMoreThan4096BytesIsRefusedRatherThanCut) {
  const std::string most(4096, 'a');
  write(most, 0600);
  EXPECT_EQ(RunSecret::from_file(path_).psk(), RunSecret::from_text(most).psk());
  for (const std::string& text : {most + "b", most + "\n", std::string(100'000, 'a')}) {
    write(text, 0600);
    const Error error = error_of([&] { RunSecret::from_file(path_); });
    EXPECT_EQ(error.code(), ErrorCode::configuration);
    EXPECT_NAMES(error, path_.string());
    EXPECT_NAMES(error, "more than 4096 bytes");
    EXPECT_FALSE(contains(error.what(), "aaaa"));
  }
}

TEST_F(SecretFile, MayBeAPipeThatGivesItInPieces) {
  ASSERT_EQ(::mkfifo(path_.c_str(), 0600), 0);
  const std::string text = RunSecret::new_text();
  std::thread writer([&] {
    std::ofstream pipe(path_);
    for (const char character : text) {
      pipe << character << std::flush;
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  });
  const auto psk = RunSecret::from_file(path_).psk();
  writer.join();
  EXPECT_EQ(psk, RunSecret::from_text(text).psk());
}

TEST(SecretFileVariable, ThatHoldsTheSecretItselfIsToldWithoutRepeatingIt) {
  const std::string secret = RunSecret::new_text();
  const Error error = error_of([&] { RunSecret::from_file(secret); });
  EXPECT_EQ(error.code(), ErrorCode::configuration);
  EXPECT_NAMES(error, "STELLA_SECRET_FILE");
  EXPECT_EQ(std::string(error.what()).find(secret.substr(secret.find(':') + 1, 8)), std::string::npos);
}

TEST_F(SecretFile, ThatIsMissingIsNamed) {
  const Error error = error_of([&] { RunSecret::from_file(path_); });
  EXPECT_EQ(error.code(), ErrorCode::configuration);
  EXPECT_NAMES(error, path_.string());
  EXPECT_NAMES(error, "STELLA_SECRET_FILE");
}

}  // namespace
}  // namespace stella::testing
