// What every fuzz target defines, beside LLVMFuzzerTestOneInput.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/bytes.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace stella::fuzz {

// Inputs that are right: where short_run.cpp begins.
std::vector<Bytes> examples();

}  // namespace stella::fuzz
