// Log lines on standard error through spdlog. STELLA_LOG sets the level: trace, debug, info (default), warn,
// error, off.
#pragma once

#include <spdlog/logger.h>

#include <memory>
#include <string>

namespace stella {

using Logger = std::shared_ptr<spdlog::logger>;

// A logger whose lines carry `name` (a member's name). Safe to share between threads.
Logger make_logger(const std::string& name);

}  // namespace stella
