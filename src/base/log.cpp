#include "base/log.hpp"

#include <spdlog/sinks/stdout_sinks.h>

#include <cstdlib>

namespace stella {

Logger make_logger(const std::string& name) {
  auto logger = std::make_shared<spdlog::logger>(name, std::make_shared<spdlog::sinks::stderr_sink_mt>());
  const char* level = std::getenv("STELLA_LOG");
  logger->set_level(level != nullptr ? spdlog::level::from_str(level) : spdlog::level::info);
  logger->set_pattern("%H:%M:%S.%e stella %n %l: %v");
  return logger;
}

}  // namespace stella
