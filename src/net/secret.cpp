#include "net/secret.hpp"

#include <fcntl.h>
#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>
#include <openssl/rand.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <memory>
#include <system_error>

#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::string_view kPrefix = "stella-secret-1:";
constexpr std::string_view kLabel = "stellatrain tls psk 1";
constexpr std::size_t kRandomCharacters = 43;  // 32 bytes in base64url without padding
constexpr std::size_t kLeastCharacters = 32;
constexpr std::size_t kMostBytes = 4096;  // of a file
constexpr std::string_view kBase64Url = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

// A text that is wiped when it goes. Its buffer is allocated once, so that no copy stays behind.
struct WipedText {
  std::string text;
  ~WipedText() { OPENSSL_cleanse(text.data(), text.size()); }
};

// A descriptor that is closed when it goes.
struct File {
  int descriptor;
  ~File() { ::close(descriptor); }
};

[[noreturn]] void cannot_read(const std::filesystem::path& path, int error) {
  if (path.string().starts_with(kPrefix)) {
    throw Error(ErrorCode::configuration,
                "STELLA_SECRET_FILE holds a run secret; it must name a file that holds one (STELLA_SECRET "
                "takes the secret itself)");
  }
  throw Error(ErrorCode::configuration, "the run secret " + path.string() +
                                            " cannot be read: " + std::system_category().message(error) +
                                            "; STELLA_SECRET_FILE names it");
}

// A pipe may hold it too: the shell's <(...) is one.
void refuse_what_holds_no_secret(const std::filesystem::path& path, const struct stat& status) {
  if (S_ISREG(status.st_mode) || S_ISFIFO(status.st_mode)) return;
  throw Error(ErrorCode::configuration,
              "the run secret " + path.string() +
                  (S_ISDIR(status.st_mode) ? " is a directory" : " is no regular file") +
                  "; STELLA_SECRET_FILE must name a file that holds one: stella secret new > run.key");
}

void refuse_if_others_can_read(const std::filesystem::path& path, const struct stat& status) {
  if ((status.st_mode & (S_IRWXG | S_IRWXO)) == 0) return;
  throw Error(ErrorCode::configuration, "the run secret " + path.string() +
                                            " is open to other users of this machine; type: chmod 600 " +
                                            path.string());
}

// Fills `text` from the start, up to its end or the file's; returns how much. A pipe gives its bytes in
// pieces.
std::size_t read_all(const std::filesystem::path& path, int descriptor, std::string& text) {
  std::size_t size = 0;
  while (size < text.size()) {
    const auto more = ::read(descriptor, text.data() + size, text.size() - size);
    if (more < 0 && errno != EINTR) cannot_read(path, errno);
    if (more == 0) break;
    if (more > 0) size += static_cast<std::size_t>(more);
  }
  return size;
}

std::string_view trimmed(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\n";
  const auto first = text.find_first_not_of(kSpace);
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

bool strong_enough(std::string_view text) {
  if (!text.starts_with(kPrefix)) return text.size() >= kLeastCharacters;
  const auto random = text.substr(kPrefix.size());
  return random.size() == kRandomCharacters && random.find_first_not_of(kBase64Url) == std::string_view::npos;
}

void derive(std::string_view text, RunSecret::Key& key) {
  const std::unique_ptr<EVP_KDF, decltype(&EVP_KDF_free)> hkdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr),
                                                               EVP_KDF_free);
  const std::unique_ptr<EVP_KDF_CTX, decltype(&EVP_KDF_CTX_free)> context(EVP_KDF_CTX_new(hkdf.get()),
                                                                          EVP_KDF_CTX_free);
  char digest[] = "SHA256";
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, const_cast<char*>(text.data()), text.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, const_cast<char*>(kLabel.data()), kLabel.size()),
      OSSL_PARAM_construct_end()};
  if (!context || EVP_KDF_derive(context.get(), key.data(), key.size(), parameters) != 1) {
    throw Error(ErrorCode::configuration, "OpenSSL offers no HKDF-SHA256, which the run secret needs");
  }
}

}  // namespace

RunSecret RunSecret::from_file(const std::filesystem::path& path) {
  const File file{::open(path.c_str(), O_RDONLY | O_CLOEXEC)};
  if (file.descriptor < 0) cannot_read(path, errno);
  struct stat status;
  if (::fstat(file.descriptor, &status) != 0) cannot_read(path, errno);
  refuse_what_holds_no_secret(path, status);
  refuse_if_others_can_read(path, status);
  WipedText content{std::string(kMostBytes + 1, '\0')};
  const std::size_t size = read_all(path, file.descriptor, content.text);
  if (size > kMostBytes) {
    throw Error(ErrorCode::configuration,
                "the run secret " + path.string() + " holds more than " + std::to_string(kMostBytes) +
                    " bytes; it must be one line: make one with: stella secret new");
  }
  return from_text(std::string_view(content.text).substr(0, size));
}

RunSecret RunSecret::from_text(std::string_view text) {
  text = trimmed(text);
  if (!strong_enough(text)) {
    throw Error(ErrorCode::configuration,
                "the run secret (" + std::to_string(text.size()) +
                    " characters) is too weak: it must be \"stella-secret-1:\" with " +
                    std::to_string(kRandomCharacters) + " characters of base64url, or at least " +
                    std::to_string(kLeastCharacters) +
                    " characters; make one with: stella secret new (STELLA_SECRET holds the secret itself, "
                    "STELLA_SECRET_FILE the name of its file)");
  }
  RunSecret secret;
  derive(text, secret.psk_);
  return secret;
}

std::string RunSecret::new_text() {
  std::array<unsigned char, kKeySize> random;
  if (RAND_bytes(random.data(), static_cast<int>(random.size())) != 1) {
    throw Error(ErrorCode::configuration, "the system's random generator gives no bytes for a run secret");
  }
  std::string text(kPrefix);
  text.reserve(kPrefix.size() + kRandomCharacters);
  for (std::size_t bit = 0; bit < random.size() * 8; bit += 6) {
    const unsigned high = random[bit / 8];
    const unsigned low = bit / 8 + 1 < random.size() ? random[bit / 8 + 1] : 0;
    text += kBase64Url[((high << 8 | low) >> (10 - bit % 8)) & 63];
  }
  OPENSSL_cleanse(random.data(), random.size());
  return text;
}

RunSecret::~RunSecret() { OPENSSL_cleanse(psk_.data(), psk_.size()); }

}  // namespace stella
