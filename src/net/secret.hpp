// The run secret: one text that every member of a run holds and nobody else (docs/security.md).
#pragma once

#include <array>
#include <cstddef>
#include <filesystem>
#include <string>
#include <string_view>

namespace stella {

// Copyable; every copy wipes its key when it goes. The secret and its key never appear in logs or errors.
class RunSecret {
 public:
  static constexpr std::size_t kKeySize = 32;
  using Key = std::array<unsigned char, kKeySize>;

  // Reads the secret from a file (surrounding white space does not count). Throws Error(configuration) when
  // the file is missing, when its group or others can read it, when it holds more than 4096 bytes, or when
  // its text is too weak.
  static RunSecret from_file(const std::filesystem::path& path);
  // "stella-secret-1:..." from new_text(), or any text of at least 32 characters; else Error(configuration).
  static RunSecret from_text(std::string_view text);
  // A new secret: "stella-secret-1:" and 32 random bytes in base64url.
  static std::string new_text();

  RunSecret(const RunSecret&) = default;
  RunSecret& operator=(const RunSecret&) = default;
  ~RunSecret();

  // The TLS 1.3 pre-shared key: HKDF-SHA256 of the text.
  const Key& psk() const { return psk_; }

 private:
  RunSecret() = default;
  Key psk_{};
};

}  // namespace stella
