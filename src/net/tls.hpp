// TLS 1.3 with the run secret as its only proof of identity (docs/security.md).
#pragma once

#include <asio/ip/tcp.hpp>
#include <asio/ssl/context.hpp>
#include <asio/ssl/stream.hpp>
#include <string>

#include "net/secret.hpp"

namespace stella {

using TlsStream = asio::ssl::stream<asio::ip::tcp::socket>;

enum class TlsRole { client, server };

// One side's TLS settings: version 1.3 only, external pre-shared key with (EC)DHE, so that past traffic stays
// secret when the run secret leaks; no certificates, tickets, early data or renegotiation. Must outlive its
// streams, which may be used on one thread.
class TlsContext {
 public:
  TlsContext(TlsRole role, RunSecret secret);
  TlsContext(const TlsContext&) = delete;
  TlsContext& operator=(const TlsContext&) = delete;

  // Every connection begins here: its socket is kept from children.
  TlsStream wrap(asio::ip::tcp::socket socket);
  asio::ssl::stream_base::handshake_type handshake_type() const;

 private:
  RunSecret secret_;
  TlsRole role_;
  asio::ssl::context context_;
};

// True when the finished handshake was made with the run secret. Nothing may be sent or believed before.
bool authenticated(TlsStream& stream);

// True for an error by which the other side says, or this side finds, that the secrets differ or that the
// other side speaks something else than our TLS; false for a connection that merely broke or was dropped.
bool is_refusal(const asio::error_code& error);

// Bytes that TLS has received and produced so far, handshake and record headers included. They count as they
// come, not when a record is whole.
std::uint64_t wire_bytes_received(TlsStream& stream);
std::uint64_t wire_bytes_sent(TlsStream& stream);

// New keys for what this side sends from now on. Not while a write is under way.
void renew_sending_key(TlsStream& stream);

}  // namespace stella
