// One binding file per C++ header; module.cpp puts them together.
#pragma once

#include <nanobind/nanobind.h>

namespace stella {

// include/stella/engine.hpp and optimizer_settings.hpp
void bind_engine(nanobind::module_& module);
// include/stella/session.hpp
void bind_session(nanobind::module_& module);

}  // namespace stella
