// Reaching another member.
#pragma once

#include <asio/awaitable.hpp>

#include "net/address.hpp"
#include "net/deadline.hpp"
#include "net/tls.hpp"

namespace stella {

// Resolves, connects and shakes hands, once. Throws
//   Error(io)               nobody answers there (yet), the name is unknown, the other side hung up: try
//   again Error(unauthenticated)  another run secret, or no member of ours: trying again will hardly help
// `tls` must outlive the stream. The sentence names the address.
asio::awaitable<TlsStream> connect(TlsContext& tls, Address address, TimePoint deadline);

}  // namespace stella
