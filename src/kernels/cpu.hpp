// Which instruction set the kernels use. Chosen once, at run time, from what this machine has; the results
// are the same bits on every target (docs/architecture.md, "Bit identity"), so this is for speed, tests and
// bug reports.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace stella {

// Targets that this build has and this machine runs, best first: "avx3" (AVX-512), "avx2", "sse4", "ssse3",
// and always one that needs nothing ("emu128" or "scalar").
std::vector<std::string> supported_targets();

// The one in use.
std::string chosen_target();

// Every kernel called from now on, by any thread, uses the target of that name; "" means the best one. Throws
// Error(configuration), naming the supported ones, for any other name.
void force_target(std::string_view name);

// force_target with the value of the environment variable STELLA_CPU, where that is set. Call it at start.
void force_target_from_environment();

}  // namespace stella
