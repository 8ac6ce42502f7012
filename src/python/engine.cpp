// Binds include/stella/engine.hpp. Tensors cross as addresses: the Python side holds them, contiguous fp32 on
// the host, until the call returns.
#include "stella/engine.hpp"

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "kernels/block.hpp"
#include "optim/settings.hpp"
#include "python/bindings.hpp"

namespace nb = nanobind;

namespace stella {
namespace {

using Addresses = std::vector<std::uintptr_t>;  // 0: no tensor

template <class T>
std::vector<T*> pointers(const Addresses& addresses) {
  std::vector<T*> result;
  result.reserve(addresses.size());
  for (const std::uintptr_t address : addresses) result.push_back(reinterpret_cast<T*>(address));
  return result;
}

void step(Engine& engine, const std::vector<std::pair<std::uintptr_t, GradientType>>& gradients,
          const Addresses& parameters, const std::vector<GroupSettings>& groups, double samples,
          float gradient_scale, bool skip) {
  std::vector<Gradient> views;
  views.reserve(gradients.size());
  for (const auto& [address, type] : gradients)
    views.push_back({reinterpret_cast<const void*>(address), type});
  const auto parameter_pointers = pointers<float>(parameters);
  StepInput input;
  input.gradients = views;
  auto writable = parameter_pointers;
  input.parameters = writable;
  input.groups = groups;
  input.samples = samples;
  input.gradient_scale = gradient_scale;
  input.skip = skip;
  nb::gil_scoped_release without_gil;
  engine.step(input);
}

void drain(Engine& engine, Level level, const Addresses& parameters,
           const std::vector<GroupSettings>& groups) {
  const auto writable = pointers<float>(parameters);
  nb::gil_scoped_release without_gil;
  engine.drain(level, writable, groups);
}

void restore(Engine& engine, const Addresses& parameters) {
  const auto writable = pointers<float>(parameters);
  nb::gil_scoped_release without_gil;
  engine.restore(writable);
}

void state_loaded(Engine& engine, std::uint64_t iteration, const Addresses& parameters) {
  const auto writable = pointers<float>(parameters);
  nb::gil_scoped_release without_gil;
  engine.state_loaded(iteration, writable);
}

// A live view; the array keeps the engine alive.
nb::object view(const StateArray& array, nb::handle engine) {
  if (array.name == "steps") {
    const std::size_t blocks = (array.numel + kBlock - 1) / kBlock;
    return nb::cast(nb::ndarray<nb::numpy, std::uint32_t, nb::ndim<1>>(array.data, {blocks}, engine));
  }
  return nb::cast(nb::ndarray<nb::numpy, float, nb::ndim<1>>(array.data, {array.numel}, engine));
}

nb::list state(nb::handle self) {
  Engine& engine = nb::cast<Engine&>(self);
  std::vector<StateArray> arrays;
  {
    nb::gil_scoped_release without_gil;  // it waits for what is under way
    arrays = engine.state();
  }
  nb::list result;
  for (const StateArray& array : arrays) {
    result.append(nb::make_tuple(array.name, array.tensor, array.consensus, array.begin, array.numel,
                                 view(array, self)));
  }
  return result;
}

// (name of the selector, its words).
nb::tuple selector_state(Engine& engine) {
  SelectorState state;
  {
    nb::gil_scoped_release without_gil;
    state = engine.selector_state();
  }
  return nb::make_tuple(state.selector, state.words);
}

bool set_selector_state(Engine& engine, std::string selector, std::vector<std::uint64_t> words) {
  nb::gil_scoped_release without_gil;
  return engine.set_selector_state({std::move(selector), std::move(words)});
}

void bind_settings(nb::module_& module) {
  nb::enum_<OptimizerKind>(module, "OptimizerKind")
      .value("sgd", OptimizerKind::sgd)
      .value("adam", OptimizerKind::adam)
      .value("adamw", OptimizerKind::adamw);
  nb::class_<GroupSettings>(module, "GroupSettings", "One param_group's hyperparameters, named as in torch.")
      .def(nb::init<>())
      .def_rw("kind", &GroupSettings::kind)
      .def_rw("lr", &GroupSettings::lr)
      .def_rw("weight_decay", &GroupSettings::weight_decay)
      .def_rw("momentum", &GroupSettings::momentum)
      .def_rw("dampening", &GroupSettings::dampening)
      .def_rw("beta1", &GroupSettings::beta1)
      .def_rw("beta2", &GroupSettings::beta2)
      .def_rw("eps", &GroupSettings::eps)
      .def_rw("nesterov", &GroupSettings::nesterov)
      .def_rw("amsgrad", &GroupSettings::amsgrad)
      .def_rw("maximize", &GroupSettings::maximize)
      .def(
          "first_difference",
          [](const GroupSettings& here, const GroupSettings& there) { return first_difference(here, there); },
          nb::arg("there"),
          "The first field that differs by more than rounding, as a sentence; None if there is none.")
      .def("validate", &validate, "Raises Error(\"invalid_argument\") if they make no sense to the engine.");
}

void bind_options(nb::module_& module) {
  nb::class_<TensorSpec>(module, "TensorSpec", "One parameter of the model.")
      .def(nb::init<>())
      .def_rw("name", &TensorSpec::name)
      .def_rw("shape", &TensorSpec::shape)
      .def_rw("dtype", &TensorSpec::dtype)
      .def_rw("group", &TensorSpec::group);
  nb::class_<EngineOptions>(module, "EngineOptions",
                            "Settings of an engine; documented in stella/engine.hpp.")
      .def(nb::init<>())
      .def_rw("rule", &EngineOptions::rule)
      .def_rw("density", &EngineOptions::density)
      .def_rw("staleness", &EngineOptions::staleness)
      .def_rw("selector", &EngineOptions::selector)
      .def_rw("wire", &EngineOptions::wire)
      .def_rw("block", &EngineOptions::block)
      .def_rw("bucket_bytes", &EngineOptions::bucket_bytes)
      .def_rw("threads", &EngineOptions::threads)
      .def_rw("step_timeout_seconds", &EngineOptions::step_timeout_seconds)
      .def_rw("max_drift_seconds", &EngineOptions::max_drift_seconds)
      .def_rw("pull", &EngineOptions::pull);
}

void bind_stats(nb::module_& module) {
  nb::class_<EngineStats>(module, "EngineStats",
                          "Counters since the start; seconds are sums over iterations.")
      .def_ro("iteration", &EngineStats::iteration)
      .def_ro("rounds", &EngineStats::rounds)
      .def_ro("bytes_sent", &EngineStats::bytes_sent)
      .def_ro("bytes_received", &EngineStats::bytes_received)
      .def_ro("blocks_sent", &EngineStats::blocks_sent)
      .def_ro("blocks_applied", &EngineStats::blocks_applied)
      .def_ro("step_copy", &EngineStats::step_copy)
      .def_ro("step_wait", &EngineStats::step_wait)
      .def_ro("step_publish", &EngineStats::step_publish)
      .def_ro("contribute", &EngineStats::contribute)
      .def_ro("exchange", &EngineStats::exchange)
      .def_ro("merge", &EngineStats::merge)
      .def_ro("apply", &EngineStats::apply);
}

}  // namespace

void bind_engine(nb::module_& module) {
  module.attr("BLOCK") = kBlock;
  bind_settings(module);
  bind_options(module);
  bind_stats(module);
  nb::enum_<GradientType>(module, "GradientType")
      .value("fp32", GradientType::fp32)
      .value("bf16", GradientType::bf16)
      .value("fp16", GradientType::fp16);
  nb::enum_<Level>(module, "Level")
      .value("active", Level::active)
      .value("epoch_ended", Level::epoch_ended)
      .value("finished", Level::finished);
  const auto release = nb::call_guard<nb::gil_scoped_release>();
  nb::class_<Engine>(module, "Engine", "One member's engine; documented in stella/engine.hpp.",
                     nb::is_weak_referenceable())
      .def("step", &step, nb::arg("gradients"), nb::arg("parameters"), nb::arg("groups"), nb::arg("samples"),
           nb::arg("gradient_scale"), nb::arg("skip"))
      .def("drain", &drain, nb::arg("level"), nb::arg("parameters"), nb::arg("groups"))
      .def("quiesce", &Engine::quiesce, release)
      .def("set_density", &Engine::set_density, nb::arg("density"))
      .def_prop_ro("iteration", &Engine::iteration)
      .def("digest", &Engine::digest, release)
      .def("stats", &Engine::stats, release)
      .def("state", &state, "List of (name, tensor, consensus, begin, numel, live array).")
      .def("allocate_moment", &Engine::allocate_moment, nb::arg("name"), nb::arg("tensor"), release,
           "Lets state() show a moment that only later settings would bring; False if there is none such.")
      .def("selector_state", &selector_state, "Name of the selector and its words, for checkpoints.")
      .def("set_selector_state", &set_selector_state, nb::arg("selector"), nb::arg("words"),
           "False if they are of another selector or of other buckets.")
      .def("restore", &restore, nb::arg("parameters"))
      .def("state_loaded", &state_loaded, nb::arg("iteration"), nb::arg("parameters"));
}

}  // namespace stella
