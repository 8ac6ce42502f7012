// The engine of one member and one model: it takes gradients, exchanges what matters of them with the other
// members, steps the optimizer on the CPU and hands back weights that are bit for bit the same everywhere.
// Start with Session (stella/session.hpp); the path of a gradient is src/engine/pipeline.cpp.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "stella/optimizer_settings.hpp"

namespace stella {

// One parameter of the model. Names, shapes, dtypes and groups must be equal on all members.
struct TensorSpec {
  std::string name;                 // "layers.0.weight"
  std::vector<std::int64_t> shape;  // its product is the numel that the pointers of a step must hold
  std::string dtype = "float32";    // what the trainer computes in; the engine sees fp32
  std::uint32_t group = 0;          // index of its param_group
};

struct EngineOptions {
  // "sparse": StellaTrain's. Gradients go to the others, an optimizer on the CPU steps weights that are the
  // same everywhere. "local": the trainer's own optimizer steps; the members tell each other, piece by piece,
  // what the others have not seen of their weights (docs/rules.md). Equal on all members.
  std::string rule = "sparse";
  // Share of the parameters that this member sends per iteration, (0, 1]. 1 sends every gradient. Members may
  // differ. The papers' "99 % compression with N members" is density 0.01/N.
  double density = 0.01;
  // step(t) returns with update t - staleness in the weights. 0: synchronous. 1: the exchange of an iteration
  // has the whole of the next one to finish. 0 or 1, equal on all members.
  unsigned staleness = 1;
  // How blocks are picked below density 1: "blocks" (largest first), "threshold" (the paper's) or "random".
  std::string selector = "blocks";
  // Values on the wire: "fp32", "bf16", or codes with a step for each block: "int8", "int4", "int2", "int1",
  // or the "signs" of the largest values (docs/encoding.md). What is not told stays in the residual. Under
  // "local" also "auto": signs, or 8 bits where the link carries that.
  std::string wire = "fp32";
  // Elements that are chosen and sent together: 16, 32 or 64. Larger blocks cost fewer bytes for ids and for
  // the steps of codes (at 1 bit 1.5, 1.25 or 1.125 bits for a value, and the id), and choose less finely.
  // Equal on all members.
  std::size_t block = 16;
  // Unit of pipelining. Smaller overlaps better, larger costs fewer messages. Equal on all members.
  std::size_t bucket_bytes = std::size_t{4} << 20;
  // Threads that compute. 0: one per core, at most 4.
  std::size_t threads = 0;
  // A member that contributes nothing for so long ends the run, and so does one that does not come to a
  // collective call: distribute, a checkpoint, the end. Covers slow evaluations; a dead member is noticed far
  // earlier (SessionOptions::peer_timeout_seconds).
  double step_timeout_seconds = 1800;
  // Under "local", where signs are told: the share, 0 to 1, of what a member shows beside everybody's
  // weights, and has not told, that is hidden from its own model with each round, and told all the same.
  // Nothing: by whether told values go on where the weights went (control/pull.hpp); Python's default is 0.
  // Members may differ.
  std::optional<double> pull;
  // Under "local": step() waits for the others once no round was over for so long.
  double max_drift_seconds = 120;
};

// How a gradient's numbers lie in memory.
enum class GradientType : std::uint8_t { fp32 = 0, bf16 = 1, fp16 = 2 };

struct Gradient {
  const void* data = nullptr;  // [numel]; null: no gradient in this step
  GradientType type = GradientType::fp32;
};

// What the trainer hands over at one step. The engine uses the pointers only until step() returns.
struct StepInput {
  std::span<const Gradient> gradients;    // by tensor
  std::span<float* const> parameters;     // by tensor, [numel] each; changed blocks are written
  std::span<const GroupSettings> groups;  // by group
  double samples = 1;                     // weight of this member's mean gradient in the iteration; 0 is skip
  float gradient_scale = 1;               // gradients are multiplied by it (GradScaler: 1 / scale)
  bool skip = false;                      // contribute nothing in this iteration (GradScaler found inf)
};

// Times are sums over all iterations, in seconds; bytes are those of the whole session.
struct EngineStats {
  std::uint64_t iteration = 0;   // steps begun
  std::uint64_t rounds = 0;      // under "local": over, and in the parameters; else 0
  std::uint64_t bytes_sent = 0;  // on the sockets, TLS and frames included
  std::uint64_t bytes_received = 0;
  std::uint64_t blocks_sent = 0;     // of 16 elements, chosen by this member
  std::uint64_t blocks_applied = 0;  // in the unions that were applied
  double step_copy = 0;              // step() waited for the copy of the gradients
  double step_wait = 0;              // step() waited for an update to be applied
  double step_publish = 0;           // step() wrote weights into the parameters
  double contribute = 0;             // accumulate, select, encode (CPU seconds over all threads)
  double exchange = 0;  // from a bucket's payload queued to all payloads there, summed over buckets
  double merge = 0;     // decode and merge (CPU seconds)
  double apply = 0;     // optimizer and digest (CPU seconds)
};

// How far a member's data has gone, carried in payload headers.
enum class Level : std::uint8_t { active = 0, epoch_ended = 1, finished = 2 };

// A live array of the engine's state, for checkpoints: valid until the next step.
struct StateArray {
  std::string name;      // "weights", "exp_avg", "steps", "residual", ...
  std::uint32_t tensor;  // index of the parameter
  bool consensus;        // the same on all members, or this member's own
  std::size_t begin;     // first element of the parameter that this array covers
  std::size_t
      numel;   // elements that it covers ("steps": elements, each block's count is repeated by the reader)
  void* data;  // fp32, or u32 for "steps" (one per block of 16 elements)
};

// What the selectors of a member carry from one iteration to the next, for checkpoints: without it, a resumed
// run sends other blocks than one that never stopped.
struct SelectorState {
  std::string selector;              // EngineOptions::selector
  std::vector<std::uint64_t> words;  // equally many for each bucket
};

// One member's engine. One thread, the trainer's, may call it. Every call may throw Error and does so for
// good once a member is lost. An engine that goes before drain(Level::finished) ends the run: the others
// learn at once that this member takes no further step.
class Engine {
 public:
  virtual ~Engine() = default;

  // Hands over this iteration's gradients, takes the update of `staleness` iterations ago into the
  // parameters. Non-finite gradients: an empty contribution goes out in their place, so nobody waits; then
  // Error(nonfinite) names the parameter.
  virtual void step(const StepInput& input) = 0;

  // Contributes nothing until every member has reached `level`; updates of the others go on into the
  // parameters, and what somebody else changed in them is put back (see restore()). Every update is in the
  // parameters of every member when it returns with Level::finished.
  virtual void drain(Level level, std::span<float* const> parameters,
                     std::span<const GroupSettings> groups) = 0;

  // Waits until everything handed over is applied to the consensus weights (not to the parameters).
  virtual void quiesce() = 0;

  virtual void set_density(double density) = 0;

  virtual std::uint64_t iteration() const = 0;  // steps begun so far
  virtual std::uint64_t digest() = 0;           // of the consensus weights; quiesces
  virtual EngineStats stats() const = 0;

  // All of the state but the selectors', for save and load; quiesces.
  virtual std::vector<StateArray> state() = 0;
  // Lets state() show a moment that only later settings of its param_group would bring ("momentum_buffer",
  // "max_exp_avg_sq"), all 0. Returns false if the optimizer has none of that name.
  virtual bool allocate_moment(const std::string& name, std::uint32_t tensor) = 0;
  virtual SelectorState selector_state() = 0;
  // Returns false, and changes nothing, if it is of another selector or of more or fewer buckets.
  virtual bool set_selector_state(const SelectorState& state) = 0;
  // Puts back what somebody else than the engine changed in `parameters`, but for blocks that a step behind
  // writes anyway. Under rule="local" such changes are what this member learned: nothing is done.
  virtual void restore(std::span<float* const> parameters) = 0;
  // After writing into the arrays of state(): continues after `iteration`. Where `parameters` (what the
  // trainer sees) differ from the consensus weights, the next step brings them up, as it would have without
  // the break. Collective: Error(mismatch) unless all members loaded the same iteration and weights.
  virtual void state_loaded(std::uint64_t iteration, std::span<float* const> parameters) = 0;
};

}  // namespace stella
