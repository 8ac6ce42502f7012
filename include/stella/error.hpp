// The one error type. What the world does (a peer, a file, a user, a network) throws stella::Error; what only
// a bug can do asserts. Bytes from outside never reach an assert.
#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace stella {

// What a caller can act on. The sentence in Error::what() is for people.
enum class ErrorCode {
  invalid_argument,  // a value that the caller passed
  configuration,     // environment, secret file, port: fix the set-up and start again
  unauthenticated,   // the other side does not hold the run's secret, or does not speak TLS 1.3
  protocol,          // bytes that break the wire format (docs/wire.md)
  mismatch,          // members disagree: model, settings, world size, weights
  peer_lost,         // a member closed, was killed or fell silent
  timeout,           // something did not happen in its time
  nonfinite,         // NaN or infinity where numbers are needed
  io,                // a file or a socket of this machine
  cancelled,         // the session was closed while the call waited
};

// "peer_lost", "timeout", ...
std::string_view to_string(ErrorCode code);

// A code to act on and a sentence to read: who, what, where in the run, value and limit, what to do next.
class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& sentence) : std::runtime_error(sentence), code_(code) {}
  ErrorCode code() const noexcept { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace stella
