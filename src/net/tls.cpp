#include "net/tls.hpp"

#include <openssl/bio.h>
#include <openssl/ssl.h>

#include <asio/ssl/error.hpp>
#include <cstring>

#include "net/children.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::string_view kIdentity = "stellatrain";
constexpr unsigned char kCipher[] = {0x13, 0x01};  // TLS_AES_128_GCM_SHA256

// Where an SSL_CTX keeps the pointer to its RunSecret.
int secret_index() {
  static const int index = SSL_CTX_get_ex_new_index(0, nullptr, nullptr, nullptr, nullptr);
  return index;
}

// A session that stands for the secret; null when memory runs out. The caller owns it.
SSL_SESSION* session_of_secret(SSL* ssl) {
  const auto* secret =
      static_cast<const RunSecret*>(SSL_CTX_get_ex_data(SSL_get_SSL_CTX(ssl), secret_index()));
  const SSL_CIPHER* cipher = SSL_CIPHER_find(ssl, kCipher);
  SSL_SESSION* session = SSL_SESSION_new();
  if (session != nullptr && cipher != nullptr &&
      SSL_SESSION_set1_master_key(session, secret->psk().data(), secret->psk().size()) == 1 &&
      SSL_SESSION_set_cipher(session, cipher) == 1 &&
      SSL_SESSION_set_protocol_version(session, TLS1_3_VERSION) == 1) {
    return session;
  }
  SSL_SESSION_free(session);
  return nullptr;
}

int offer_secret(SSL* ssl, const EVP_MD* digest, const unsigned char** identity, std::size_t* identity_size,
                 SSL_SESSION** session) {
  *session = nullptr;
  *identity = reinterpret_cast<const unsigned char*>(kIdentity.data());
  *identity_size = kIdentity.size();
  if (digest != nullptr && EVP_MD_get_type(digest) != NID_sha256) return 0;
  *session = session_of_secret(ssl);
  return *session != nullptr ? 1 : 0;
}

// Returning 0 ends the handshake: there is nothing to fall back to.
int find_secret(SSL* ssl, const unsigned char* identity, std::size_t identity_size, SSL_SESSION** session) {
  *session = nullptr;
  const bool ours =
      identity_size == kIdentity.size() && std::memcmp(identity, kIdentity.data(), identity_size) == 0;
  if (ours) *session = session_of_secret(ssl);
  return *session != nullptr ? 1 : 0;
}

void check(bool ok) {
  if (!ok)
    throw Error(ErrorCode::configuration,
                "OpenSSL refuses TLS 1.3 with a pre-shared key; 3.0 or newer is needed");
}

}  // namespace

TlsContext::TlsContext(TlsRole role, RunSecret secret)
    : secret_(std::move(secret)), role_(role), context_(asio::ssl::context::tls) {
  SSL_CTX* context = context_.native_handle();
  check(SSL_CTX_set_ex_data(context, secret_index(), &secret_) == 1);
  check(SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION) == 1);
  check(SSL_CTX_set_max_proto_version(context, TLS1_3_VERSION) == 1);
  check(SSL_CTX_set_ciphersuites(context, "TLS_AES_128_GCM_SHA256") == 1);
  check(SSL_CTX_set1_groups_list(context, "X25519:P-256") == 1);
  check(SSL_CTX_set_num_tickets(context, 0) == 1);
  check(SSL_CTX_set_max_early_data(context, 0) == 1);
  SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
  SSL_CTX_set_options(context, SSL_OP_NO_TICKET | SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION);
  if (role == TlsRole::client) {
    // No certificate can pass this: a server that offers one instead of the secret is refused.
    SSL_CTX_set_verify(context, SSL_VERIFY_PEER, nullptr);
    SSL_CTX_set_psk_use_session_callback(context, offer_secret);
  } else {
    SSL_CTX_set_psk_find_session_callback(context, find_secret);
  }
}

TlsStream TlsContext::wrap(asio::ip::tcp::socket socket) {
  keep_from_children(socket.native_handle());
  return TlsStream(std::move(socket), context_);
}

asio::ssl::stream_base::handshake_type TlsContext::handshake_type() const {
  return role_ == TlsRole::client ? asio::ssl::stream_base::client : asio::ssl::stream_base::server;
}

bool authenticated(TlsStream& stream) {
  SSL* ssl = stream.native_handle();
  return SSL_is_init_finished(ssl) == 1 && SSL_version(ssl) == TLS1_3_VERSION && SSL_session_reused(ssl) == 1;
}

bool is_refusal(const asio::error_code& error) { return error.category() == asio::error::get_ssl_category(); }

std::uint64_t wire_bytes_received(TlsStream& stream) {
  return BIO_number_read(SSL_get_rbio(stream.native_handle()));
}

std::uint64_t wire_bytes_sent(TlsStream& stream) {
  return BIO_number_written(SSL_get_wbio(stream.native_handle()));
}

void renew_sending_key(TlsStream& stream) {
  SSL_key_update(stream.native_handle(), SSL_KEY_UPDATE_NOT_REQUESTED);
}

}  // namespace stella
