#include "base/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>

#include <cstdlib>
#include <string_view>

#include "stella/error.hpp"

namespace stella {

namespace {

spdlog::level::level_enum level_from_environment() {
  const char* text = std::getenv("STELLA_LOG");
  if (text == nullptr) return spdlog::level::info;
  const auto level = spdlog::level::from_str(text);  // "off" for what it does not know
  if (level == spdlog::level::off && std::string_view(text) != "off") {
    throw Error(ErrorCode::configuration, "STELLA_LOG is '" + std::string(text) +
                                              "'; it must be trace, debug, info, warn, error or off");
  }
  return level;
}

}  // namespace

Logger make_logger(const std::string& name) {
  auto logger = std::make_shared<spdlog::logger>(name, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_level(level_from_environment());
  logger->set_pattern("%H:%M:%S.%e stella %n %l: %v");
  return logger;
}

}  // namespace stella
