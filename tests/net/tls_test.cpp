#include "net/tls.hpp"

#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <array>
#include <asio/experimental/awaitable_operators.hpp>
#include <asio/read.hpp>
#include <asio/redirect_error.hpp>
#include <asio/use_awaitable.hpp>
#include <asio/write.hpp>

#include "net/test_thread.hpp"

namespace stella::testing {
namespace {

using asio::ip::tcp;

struct Outcome {
  std::error_code client;
  std::error_code server;
};

asio::awaitable<std::error_code> shake(TlsStream& stream, asio::ssl::stream_base::handshake_type type) {
  std::error_code error;
  co_await stream.async_handshake(type, asio::redirect_error(asio::use_awaitable, error));
  // In TLS 1.3 a client is done before the server has judged it: the first byte tells.
  std::array<char, 1> byte{'x'};
  if (!error && type == asio::ssl::stream_base::server) {
    co_await asio::async_write(stream, asio::buffer(byte), asio::redirect_error(asio::use_awaitable, error));
  } else if (!error) {
    co_await asio::async_read(stream, asio::buffer(byte), asio::redirect_error(asio::use_awaitable, error));
  }
  if (error) stream.lowest_layer().close();
  co_return error;
}

// Both ends on one thread, over the loopback.
class Pair {
 public:
  Pair() {
    net_.call([this] {
      tcp::acceptor acceptor(net_.io(), {asio::ip::address_v4::loopback(), 0});
      client_.connect(acceptor.local_endpoint());
      server_ = acceptor.accept();
    });
  }
  Outcome shake_hands(asio::ssl::context& client, asio::ssl::context& server) {
    TlsStream client_stream(std::move(client_), client);
    TlsStream server_stream(std::move(server_), server);
    return shake_hands(client_stream, server_stream);
  }
  Outcome shake_hands(TlsStream& client, TlsStream& server) { return net_.run(both(client, server)); }
  tcp::socket& client() { return client_; }
  tcp::socket& server() { return server_; }

 private:
  static asio::awaitable<Outcome> both(TlsStream& client, TlsStream& server) {
    using namespace asio::experimental::awaitable_operators;
    const auto [one, other] = co_await (shake(client, asio::ssl::stream_base::client) &&
                                        shake(server, asio::ssl::stream_base::server));
    co_return Outcome{one, other};
  }

  TestThread net_;
  tcp::socket client_{net_.io()};
  tcp::socket server_{net_.io()};
};

// A context without our settings, as a stranger may have.
asio::ssl::context stranger(int version) {
  asio::ssl::context context(asio::ssl::context::tls);
  SSL_CTX_set_min_proto_version(context.native_handle(), version);
  SSL_CTX_set_max_proto_version(context.native_handle(), version);
  return context;
}

// Gives it a fresh self-signed certificate.
void certify(asio::ssl::context& context) {
  EVP_PKEY* key = EVP_EC_gen("P-256");
  X509* certificate = X509_new();
  X509_gmtime_adj(X509_getm_notBefore(certificate), 0);
  X509_gmtime_adj(X509_getm_notAfter(certificate), 3600);
  X509_set_pubkey(certificate, key);
  X509_sign(certificate, key, EVP_sha256());
  SSL_CTX_use_certificate(context.native_handle(), certificate);
  SSL_CTX_use_PrivateKey(context.native_handle(), key);
  X509_free(certificate);
  EVP_PKEY_free(key);
}

TEST(Tls, TheSameSecretConnectsWithTls13AndForwardSecrecy) {
  TlsContext client_tls(TlsRole::client, test_secret());
  TlsContext server_tls(TlsRole::server, test_secret());
  Pair pair;
  TlsStream client = client_tls.wrap(std::move(pair.client()));
  TlsStream server = server_tls.wrap(std::move(pair.server()));
  const Outcome outcome = pair.shake_hands(client, server);
  EXPECT_FALSE(outcome.client) << outcome.client.message();
  EXPECT_FALSE(outcome.server) << outcome.server.message();
  for (TlsStream* side : {&client, &server}) {
    SSL* ssl = side->native_handle();
    EXPECT_TRUE(authenticated(*side));
    EXPECT_STREQ(SSL_get_version(ssl), "TLSv1.3");
    EXPECT_STREQ(SSL_get_cipher_name(ssl), "TLS_AES_128_GCM_SHA256");
    EXPECT_NE(SSL_get_negotiated_group(ssl), 0);  // an (EC)DHE exchange took place
    EXPECT_EQ(SSL_get0_peer_certificate(ssl), nullptr);
  }
}

TEST(Tls, AnotherSecretIsRefusedByAnAlertThatTheClientSees) {
  TlsContext client_tls(TlsRole::client, other_secret());
  TlsContext server_tls(TlsRole::server, test_secret());
  Pair pair;
  TlsStream client = client_tls.wrap(std::move(pair.client()));
  TlsStream server = server_tls.wrap(std::move(pair.server()));
  const Outcome outcome = pair.shake_hands(client, server);
  EXPECT_TRUE(is_refusal(outcome.client)) << outcome.client.message();
  EXPECT_TRUE(is_refusal(outcome.server)) << outcome.server.message();
  EXPECT_FALSE(authenticated(client));
  EXPECT_FALSE(authenticated(server));
}

TEST(Tls, AClientOfTls12IsRefused) {
  asio::ssl::context old = stranger(TLS1_2_VERSION);
  TlsContext server_tls(TlsRole::server, test_secret());
  Pair pair;
  TlsStream client(std::move(pair.client()), old);
  TlsStream server = server_tls.wrap(std::move(pair.server()));
  const Outcome outcome = pair.shake_hands(client, server);
  EXPECT_TRUE(outcome.server);
  EXPECT_FALSE(authenticated(server));
}

TEST(Tls, AClientWithoutTheSecretIsRefusedEvenWithACertificate) {
  for (const bool with_certificate : {false, true}) {
    asio::ssl::context bare = stranger(TLS1_3_VERSION);
    if (with_certificate) certify(bare);
    TlsContext server_tls(TlsRole::server, test_secret());
    Pair pair;
    TlsStream client(std::move(pair.client()), bare);
    TlsStream server = server_tls.wrap(std::move(pair.server()));
    const Outcome outcome = pair.shake_hands(client, server);
    EXPECT_TRUE(outcome.server);
    EXPECT_FALSE(authenticated(server));
  }
}

TEST(Tls, AServerWithACertificateInsteadOfTheSecretIsRefused) {
  asio::ssl::context impostor = stranger(TLS1_3_VERSION);
  certify(impostor);
  TlsContext client_tls(TlsRole::client, test_secret());
  Pair pair;
  TlsStream client = client_tls.wrap(std::move(pair.client()));
  TlsStream server(std::move(pair.server()), impostor);
  const Outcome outcome = pair.shake_hands(client, server);
  EXPECT_TRUE(is_refusal(outcome.client)) << outcome.client.message();
  EXPECT_FALSE(authenticated(client));
}

}  // namespace
}  // namespace stella::testing
