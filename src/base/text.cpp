#include "base/text.hpp"

namespace stella {

std::string to_text(std::chrono::milliseconds duration) {
  const auto whole = std::to_string(duration.count() / 1000);
  const auto rest = duration.count() % 1000;
  return (rest == 0 ? whole : whole + "." + std::to_string(1000 + rest).substr(1)) + " s";
}

}  // namespace stella
