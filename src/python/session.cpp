// Binds include/stella/session.hpp.
#include "stella/session.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "python/bindings.hpp"

namespace nb = nanobind;

namespace stella {
namespace {

std::span<const std::byte> as_span(const nb::bytes& bytes) {
  return {static_cast<const std::byte*>(bytes.data()), bytes.size()};
}

nb::list all_gather(Session& session, const std::string& tag, const nb::bytes& mine) {
  std::vector<std::vector<std::byte>> all;
  {
    const auto bytes = as_span(mine);
    nb::gil_scoped_release without_gil;
    all = session.all_gather(tag, bytes);
  }
  nb::list result;
  for (const auto& bytes : all) result.append(nb::bytes(bytes.data(), bytes.size()));
  return result;
}

void broadcast(Session& session, const std::string& tag, std::uint32_t root, std::uintptr_t address,
               std::size_t bytes) {
  nb::gil_scoped_release without_gil;
  session.broadcast(tag, root, {reinterpret_cast<std::byte*>(address), bytes});
}

// Lets Ctrl-C end a wait. Python runs signal handlers on its main thread only; elsewhere this finds nothing.
void raise_pending_signal() {
  nb::gil_scoped_acquire gil;
  if (PyErr_CheckSignals() != 0) throw nb::python_error();
}

// In place, as a Session cannot be moved.
void make_session(Session* place, SessionOptions options) {
  options.while_waiting = raise_pending_signal;
  new (place) Session(options);
}

std::unique_ptr<Engine> distribute(Session& session, const std::vector<TensorSpec>& tensors,
                                   const std::vector<GroupSettings>& groups, const EngineOptions& options,
                                   const std::vector<std::uintptr_t>& parameters) {
  std::vector<float*> pointers;
  for (const std::uintptr_t address : parameters) pointers.push_back(reinterpret_cast<float*>(address));
  nb::gil_scoped_release without_gil;
  return session.distribute(tensors, groups, options, pointers);
}

}  // namespace

void bind_session(nb::module_& module) {
  nb::class_<SessionOptions>(module, "SessionOptions",
                             "Who this member is; documented in stella/session.hpp.")
      .def(nb::init<>())
      .def_rw("rank", &SessionOptions::rank)
      .def_rw("world_size", &SessionOptions::world_size)
      .def_rw("name", &SessionOptions::name)
      .def_rw("cluster", &SessionOptions::cluster)
      .def_rw("host", &SessionOptions::host)
      .def_rw("port", &SessionOptions::port)
      .def_rw("secret_file", &SessionOptions::secret_file)
      .def_rw("secret", &SessionOptions::secret)
      .def_rw("join_timeout_seconds", &SessionOptions::join_timeout_seconds)
      .def_rw("peer_timeout_seconds", &SessionOptions::peer_timeout_seconds);
  nb::class_<Member>(module, "Member", "What is known of a member.")
      .def_ro("rank", &Member::rank)
      .def_ro("name", &Member::name)
      .def_ro("cluster", &Member::cluster)
      .def_ro("hostname", &Member::hostname)
      .def_ro("address", &Member::address);
  const auto release = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Session>(module, "Session", "One member of one run; documented in stella/session.hpp.",
                      nb::is_weak_referenceable())
      .def("__init__", &make_session, nb::arg("options"))
      .def("listen", &Session::listen, release)
      .def("join", &Session::join, nb::arg("addresses"), release)
      .def("join_through", &Session::join_through, nb::arg("coordinator"), release)
      .def_prop_ro("members", &Session::members, nb::rv_policy::copy)
      .def("describe", &Session::describe, nb::arg("rank"), release)
      .def("all_gather", &all_gather, nb::arg("tag"), nb::arg("mine"))
      .def("broadcast", &broadcast, nb::arg("tag"), nb::arg("root"), nb::arg("address"), nb::arg("bytes"))
      .def("distribute", &distribute, nb::arg("tensors"), nb::arg("groups"), nb::arg("options"),
           nb::arg("parameters"), nb::keep_alive<0, 1>())
      .def("leave", &Session::leave, release)
      .def("abort", &Session::abort, nb::arg("reason"), release);
}

}  // namespace stella
