#include "compress/selector.hpp"

#include <string>

#include "compress/block_selector.hpp"
#include "compress/random_selector.hpp"
#include "compress/threshold_selector.hpp"
#include "stella/error.hpp"

namespace stella {

std::unique_ptr<Selector> make_selector(std::string_view name, std::uint64_t seed) {
  if (name == "blocks") return std::make_unique<BlockSelector>(seed);
  if (name == "threshold") return std::make_unique<ThresholdSelector>(seed);
  if (name == "random") return std::make_unique<RandomSelector>(seed);
  throw Error(ErrorCode::invalid_argument, "there is no selector \"" + std::string(name) +
                                               "\"; the supported ones are \"blocks\" (the default), "
                                               "\"threshold\" and \"random\"");
}

}  // namespace stella
