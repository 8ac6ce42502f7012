// Several members of one run in one process, each on a thread with a Session of its own.
#pragma once

#include <algorithm>
#include <cstdint>
#include <exception>
#include <functional>
#include <future>
#include <string>
#include <thread>
#include <vector>

#include "kernels/kernel_testing.hpp"
#include "net/secret.hpp"
#include "stella/engine.hpp"
#include "stella/error.hpp"
#include "stella/session.hpp"

namespace stella::testing {

// Calls body(session, rank) for each member and returns what was thrown, by rank (null: nothing).
inline std::vector<std::exception_ptr> outcomes_of_members(
    std::uint32_t world_size, const std::function<void(Session&, std::uint32_t rank)>& body,
    SessionOptions common = {}) {
  const std::string secret = RunSecret::new_text();
  std::vector<std::promise<std::string>> addresses(world_size);
  std::vector<std::shared_future<std::string>> published;
  for (auto& address : addresses) published.emplace_back(address.get_future());
  std::vector<std::exception_ptr> outcomes(world_size);
  std::vector<std::thread> threads;
  for (std::uint32_t rank = 0; rank < world_size; ++rank) {
    threads.emplace_back([&, rank] {
      try {
        SessionOptions options = common;
        options.rank = rank;
        options.world_size = world_size;
        options.secret = secret;
        Session session(options);
        addresses[rank].set_value("127.0.0.1:" + std::to_string(session.listen()));
        std::vector<std::string> all;
        for (auto& address : published) all.push_back(address.get());
        session.join(all);
        body(session, rank);
      } catch (...) {
        outcomes[rank] = std::current_exception();
      }
    });
  }
  for (auto& thread : threads) thread.join();
  return outcomes;
}

// The same; rethrows the first member's exception.
inline void run_members(std::uint32_t world_size,
                        const std::function<void(Session&, std::uint32_t rank)>& body) {
  for (const auto& outcome : outcomes_of_members(world_size, body)) {
    if (outcome) std::rethrow_exception(outcome);
  }
}

inline GroupSettings sgd(double lr) {
  GroupSettings settings;
  settings.lr = lr;
  return settings;
}

inline EngineOptions small_buckets(double density, unsigned staleness) {
  EngineOptions options;
  options.density = density;
  options.staleness = staleness;
  options.bucket_bytes = 4096;
  options.threads = 2;
  return options;
}

// "timeout: member 2 (...) contributed nothing ..."; empty if nothing was thrown.
inline std::string sentence_of(const std::exception_ptr& outcome) {
  try {
    if (outcome) std::rethrow_exception(outcome);
  } catch (const Error& error) {
    return std::string(to_string(error.code())) + ": " + error.what();
  } catch (const std::exception& other) {
    return other.what();
  }
  return "";
}

// A model of a few tensors with its gradients, as a trainer would hold it.
struct Model {
  explicit Model(std::vector<std::int64_t> sizes) {
    for (const std::int64_t size : sizes) {
      specs.push_back({"tensor" + std::to_string(specs.size()), {size}, "float32", 0});
      weights.emplace_back(size, 0.0f);
      gradients.emplace_back(size, 0.0f);
    }
    for (auto& tensor : weights) weight_pointers.push_back(tensor.data());
    for (auto& tensor : gradients) gradient_views.push_back({tensor.data()});
  }
  void fill_gradients(float value) {
    for (auto& tensor : gradients) std::fill(tensor.begin(), tensor.end(), value);
  }
  StepInput input(std::span<const GroupSettings> groups) {
    StepInput input;
    input.gradients = gradient_views;
    input.parameters = weight_pointers;
    input.groups = groups;
    return input;
  }

  void fill_gradients(Random& random) {
    for (auto& tensor : gradients) std::ranges::copy(normal(random, tensor.size()), tensor.begin());
  }

  std::vector<TensorSpec> specs;
  std::vector<std::vector<float>> weights, gradients;
  std::vector<float*> weight_pointers;
  std::vector<Gradient> gradient_views;
};

}  // namespace stella::testing
