// stellatrain._core: the C++ engine for Python. Signatures mirror include/stella/.
#include <unistd.h>

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <string>

#include "base/text.hpp"
#include "base/version.hpp"
#include "kernels/cpu.hpp"
#include "net/secret.hpp"
#include "python/bindings.hpp"
#include "stella/error.hpp"

namespace nb = nanobind;

namespace stella {
namespace {

// stellatrain.Error carries the code's name as its attribute `code`.
void translate(const std::exception_ptr& thrown, void* type) {
  try {
    std::rethrow_exception(thrown);
  } catch (const Error& error) {
    // A Ctrl-C that came meanwhile wins: where a script ends by an exception while a signal is pending,
    // Python shows neither.
    if (PyErr_CheckSignals() != 0) return;
    const nb::handle python_type(static_cast<PyObject*>(type));
    nb::object instance = python_type(valid_utf8(error.what()));  // it may quote a peer or a variable
    instance.attr("code") = nb::str(std::string(to_string(error.code())).c_str());
    PyErr_SetObject(python_type.ptr(), instance.ptr());
  }
}

// For a process that was forked from one with threads of ours: it has none of them, and whatever joins them
// waits for ever. So a Session or Engine of the parent goes without its destructor there, and the process
// ends without static ones, Asio's among them; by then Python has done all of its own.
void forget(nb::handle instance) {
  nb::inst_set_state(instance, /*ready=*/true, /*destruct=*/false);
  instance.inc_ref();  // for ever, or an Engine's end would let go of the Session that it keeps
  nb::set_leak_warnings(false);
}

void skip_static_destructors() {
  ::on_exit(
      [](int status, void*) {
        std::fflush(nullptr);
        ::_exit(status);
      },
      nullptr);
}

}  // namespace
}  // namespace stella

NB_MODULE(_core, module) {
  // Before there are types: an import that fails may be tried again, and they cannot be made twice.
  stella::force_target_from_environment();
  module.attr("__version__") = nb::str(stella::version().data(), stella::version().size());
  module.doc() = "The StellaTrain engine (C++).";
  PyObject* error = PyErr_NewExceptionWithDoc(
      "stellatrain.Error",
      "What went wrong, with the member, the place in the run and what to do. `code` is for programs.",
      PyExc_RuntimeError, nullptr);
  module.attr("Error") = nb::handle(error);
  nb::register_exception_translator(stella::translate, error);

  stella::bind_engine(module);
  stella::bind_session(module);
  module.def("forget", &stella::forget, nb::arg("instance"),
             "For a forked child: this Session or Engine of its parent will go without its destructor.");
  module.def("skip_static_destructors", &stella::skip_static_destructors,
             "For a forked child: it will end without what waits for its parent's threads.");
  module.def("supported_targets", &stella::supported_targets,
             "Instruction sets of this machine, best first.");
  module.def("chosen_target", &stella::chosen_target, "The instruction set in use.");
  module.def("force_target", &stella::force_target, nb::arg("name"),
             "Uses one of supported_targets(); '' is the best.");
  module.def("new_secret", &stella::RunSecret::new_text, "A fresh run secret, one line of text.");
}
