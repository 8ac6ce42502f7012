// The version of this software: project() in CMakeLists.txt says it.
#pragma once

#include <string_view>

namespace stella {

std::string_view version();  // "0.1.0"

}  // namespace stella
