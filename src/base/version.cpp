#include "base/version.hpp"

namespace stella {

std::string_view version() { return STELLA_VERSION; }

}  // namespace stella
