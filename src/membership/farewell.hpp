// The body of an abort frame: why a run ends. Format: docs/wire.md, "Abort".
#pragma once

#include <span>
#include <string>

#include "base/bytes.hpp"
#include "stella/error.hpp"

namespace stella {

// As which they learn of it: what only the sender can act on is peer_lost to them.
ErrorCode code_for_others(ErrorCode code);

// The sentence is cut, between two characters, where it would not fit the frame.
Bytes encode(const Error& reason);

// The sender's error as it wrote it (bytes that are no UTF-8 are replaced): it names the member that really
// failed, which need not be the sender. Throws Error(protocol) for bytes that are none; `sender` opens that
// sentence.
Error decode_farewell(std::span<const std::byte> bytes, const std::string& sender);

}  // namespace stella
