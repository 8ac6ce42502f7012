// Text for people: in errors, in logs, in Python.
#pragma once

#include <chrono>
#include <string>

namespace stella {

// "10 s", "0.250 s".
std::string to_text(std::chrono::milliseconds duration);

}  // namespace stella
