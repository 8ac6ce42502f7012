#include "engine/sparse_rule.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <iterator>
#include <numeric>
#include <utility>

#include "compress/merge.hpp"
#include "engine/gradient_values.hpp"
#include "engine/sparse_bucket.hpp"
#include "kernels/accumulate_score.hpp"
#include "kernels/finite.hpp"
#include "optim/settings.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

std::string where(Iteration t, BucketId bucket) {
  return "iteration " + std::to_string(t) + ", bucket " + std::to_string(bucket);
}

// By which a gradient counts in the residual: payloads hold sums over samples.
float weight_of(const StepInput& input) { return static_cast<float>(input.samples) * input.gradient_scale; }

// The others' kinds are compared with the first one's.
void check_kind(const SparseBucket& bucket, OptimizerKind kind) {
  if (bucket.optimizer->takes(kind)) return;
  throw Error(ErrorCode::mismatch, "param group " + std::to_string(bucket.layout.group) +
                                       " has settings of the optimizer " + std::string(to_string(kind)) +
                                       " there, which is not the one here");
}

}  // namespace

SparseRule::SparseRule(std::vector<BucketLayout> layouts, std::vector<std::string> names,
                       std::span<const GroupSettings> groups, const EngineOptions& options, Rank rank,
                       DescribeMember describe)
    : names_(std::move(names)),
      selector_(options.selector),
      coding_(coding_named(options.wire)),
      density_(options.density),
      describe_(std::move(describe)) {
  for (BucketLayout& layout : layouts) {
    const std::uint64_t seed = (std::uint64_t{rank} << 32) + buckets_.size();
    const GroupSettings& settings = groups[layout.group];
    buckets_.push_back(std::make_unique<SparseBucket>(std::move(layout), settings, options.selector, seed));
  }
}

SparseRule::~SparseRule() = default;

// The gradient is read once, while the trainer waits, and lands in the residual. Whether the iteration counts
// is known only when all buckets have seen theirs: see drop().
std::optional<std::uint32_t> SparseRule::copy(BucketId id, const StepInput& input) {
  SparseBucket& bucket = *buckets_[id];
  bucket.accumulated = 0;
  bucket.overflowed.reset();
  if (input.skip) return std::nullopt;
  for (std::size_t i = 0; i < bucket.layout.slices.size(); ++i) {
    const Slice& slice = bucket.layout.slices[i];
    const Gradient& gradient = input.gradients[slice.tensor];
    bucket.present[i] = gradient.data != nullptr;
    std::size_t done = 0;
    if (!bucket.present[i]) {  // its residual lives on
      done = accumulate(bucket, slice, bucket.residual.data() + slice.offset, 0, slice.numel);
    } else {
      with_values(gradient, slice, [&](auto values) {
        done = accumulate(bucket, slice, values.data(), weight_of(input), slice.numel);
      });
    }
    bucket.accumulated = slice.offset + done;
    if (done == slice.numel) continue;
    const auto bad = first_nonfinite(bucket.layout, input.gradients);
    if (!bad) bucket.overflowed = slice.tensor;  // a sum did: contribute() says so, if the iteration counts
    return bad;
  }
  return std::nullopt;
}

// What was added is subtracted: to the rounding of a sum. An element of the residual changes by its own size
// at most; beside a gradient that is many times larger it is lost. (An element within two units in the last
// place of the largest float could round to infinity on the way back: the rest of its slice then keeps what
// was added.)
void SparseRule::drop(BucketId id, const StepInput& input) {
  SparseBucket& bucket = *buckets_[id];
  for (std::size_t i = 0; i < bucket.layout.slices.size(); ++i) {
    const Slice& slice = bucket.layout.slices[i];
    if (slice.offset >= bucket.accumulated) break;
    if (!bucket.present[i]) continue;
    const std::size_t numel = std::min(slice.numel, bucket.accumulated - slice.offset);
    with_values(input.gradients[slice.tensor], slice,
                [&](auto values) { accumulate(bucket, slice, values.data(), -weight_of(input), numel); });
  }
  bucket.accumulated = 0;
}

// residual += weight * gradient for the first `numel` elements of a slice, with the scores of their blocks.
// Stops in front of the first block whose residual would not be finite; returns how many elements were done.
template <class T>
std::size_t SparseRule::accumulate(SparseBucket& bucket, const Slice& slice, const T* gradient, float weight,
                                   std::size_t numel) {
  float* residual = bucket.residual.data() + slice.offset;
  float* scores = bucket.scores.data() + slice.offset / kBlock;
  const std::size_t whole = numel / kBlock * kBlock;
  const std::size_t done = accumulate_score(std::span(gradient, whole), weight, residual, scores) * kBlock;
  if (done < whole || whole == numel) return done;
  std::array<T, kBlock> tail{};
  std::copy(gradient + whole, gradient + numel, tail.begin());
  return whole +
         accumulate_score(std::span<const T>(tail), weight, residual + whole, scores + whole / kBlock) *
             (numel - whole);
}

PayloadPtr SparseRule::contribute(BucketId id, const Step& step) {
  SparseBucket& bucket = *buckets_[id];
  PayloadHeader header;
  header.level = step.level;
  header.iteration = step.iteration;
  header.bucket = id;
  header.digest = bucket.digests.newest();
  header.settings = step.groups[bucket.layout.group];
  Bytes body;
  if (!step.skip) {
    header.samples = step.input.samples;
    if (bucket.overflowed) {
      throw Error(ErrorCode::nonfinite, "the accumulated gradient of '" + names_[*bucket.overflowed] +
                                            "' overflowed at iteration " + std::to_string(step.iteration) +
                                            "; clip gradients or lower the learning rate");
    }
    const std::vector<BlockId> chosen = choose(bucket);
    encode_blocks(chosen, {coding_, bucket.layout.block, bucket.short_blocks}, bucket.residual, body);
    blocks_sent_ += chosen.size() * (bucket.layout.block / kBlock);
  }
  return std::make_shared<const Payload>(header, body);
}

std::vector<BlockId> SparseRule::choose(SparseBucket& bucket) {
  const std::span<const float> scores = bucket.scores_to_send();
  const double density = density_;
  if (density >= 1) return present_blocks(bucket, scores);
  const auto wanted = std::llround(density * static_cast<double>(bucket.blocks_to_send()));
  std::vector<BlockId> chosen;
  bucket.selector->select(scores, static_cast<std::size_t>(std::max(1LL, wanted)), chosen);
  return chosen;
}

// At density 1 a gradient of zero counts too (momentum and weight decay move such weights), but a parameter
// without a gradient stays as it is, as in torch; unless it still has something to send.
std::vector<BlockId> SparseRule::present_blocks(const SparseBucket& bucket,
                                                std::span<const float> scores) const {
  const std::size_t block = bucket.layout.block;
  std::vector<BlockId> blocks;
  for (std::size_t i = 0; i < bucket.layout.slices.size(); ++i) {
    const Slice& slice = bucket.layout.slices[i];
    const std::size_t end = (slice.offset + slice.numel + block - 1) / block;
    for (std::size_t id = slice.offset / block; id < end; ++id) {
      if (bucket.present[i] || scores[id] > 0) blocks.push_back(static_cast<BlockId>(id));
    }
  }
  return blocks;
}

// Puts the member and the place in the run before the sentence of what `read` throws.
template <class Read>
void SparseRule::naming(Rank rank, const PayloadHeader& header, Read read) const {
  try {
    read();
  } catch (const Error& error) {
    throw Error(error.code(),
                describe_(rank) + " at " + where(header.iteration, header.bucket) + ": " + error.what());
  }
}

Update SparseRule::merge(BucketId id, const Gathered& all) {
  const std::vector<PayloadPtr>& payloads = all.payloads;
  SparseBucket& bucket = *buckets_[id];
  Update update;
  update.iteration = all.iteration;
  std::vector<SparseGradient> contributions;
  double samples = 0;
  Rank first = 0;
  for (Rank rank = 0; rank < payloads.size(); ++rank) {
    const PayloadHeader& header = payloads[rank]->header();
    update.digests.emplace_back(rank, header.digest);
    if (header.samples == 0) continue;
    naming(rank, header, [&] { validate(header.settings); });
    if (contributions.empty()) {
      naming(rank, header, [&] { check_kind(bucket, header.settings.kind); });
      first = rank;
      update.settings = header.settings;  // everywhere, whatever the rounding of the others'
    } else if (first_difference(update.settings, header.settings)) {
      // Once more, with the members' names: nobody needs those where all set the same.
      const auto difference = first_difference(update.settings, header.settings, "on " + describe_(first),
                                               "on " + describe_(rank));
      throw Error(ErrorCode::mismatch,
                  "at iteration " + std::to_string(header.iteration) + ", param group " +
                      std::to_string(bucket.layout.group) + ": " + *difference +
                      "; every member must set the same. A scheduler that looks at a loss needs the same "
                      "one everywhere: stellatrain.mean(loss)");
    }
    naming(rank, header, [&] {
      contributions.push_back(decode_blocks(payloads[rank]->body(), bucket.blocks_to_send(),
                                            bucket.layout.block, bucket.short_blocks));
    });
    samples += header.samples;
  }
  if (contributions.empty()) return update;
  update.gradient = stella::merge(contributions, samples);
  const std::span<const float> merged = update.gradient.values;
  if (const std::size_t bad = find_nonfinite(merged); bad < merged.size()) {
    throw Error(ErrorCode::nonfinite, "the members' gradients of '" +
                                          tensor_of(bucket, update.gradient.blocks[bad / kBlock]) +
                                          "' overflow when added up at " + where(update.iteration, id) +
                                          "; clip gradients or lower the learning rate");
  }
  return update;
}

void SparseRule::apply(BucketId id, Update update) {
  SparseBucket& bucket = *buckets_[id];
  check_digests(bucket, id, update);
  std::uint64_t digest = bucket.digests.newest().value;
  if (!update.gradient.blocks.empty()) {  // nobody contributed: not even settings to step by
    digest -= hash_blocks(update.gradient.blocks, bucket.weights);
    bucket.optimizer->step(update.gradient, update.settings, bucket.weights);
    bucket.clear_padding();
    digest += hash_blocks(update.gradient.blocks, bucket.weights);
  }
  bucket.digests.add({update.iteration, digest});
  if (update.iteration % kFullDigestEvery == 0) check_full_digest(bucket, id);
  blocks_applied_ += update.gradient.blocks.size();
  bucket.unpublished.push_back({update.iteration, std::move(update.gradient.blocks)});
}

void SparseRule::check_digests(const SparseBucket& bucket, BucketId id, const Update& update) const {
  for (const auto& [rank, theirs] : update.digests) {
    const auto ours = bucket.digests.at(theirs.iteration);
    if (!ours) {
      throw Error(ErrorCode::protocol, describe_(rank) + " reports a digest of iteration " +
                                           std::to_string(theirs.iteration) + " at " +
                                           where(update.iteration, id));
    }
    if (*ours == theirs.value) continue;
    throw Error(ErrorCode::mismatch,
                "the weights of bucket " + std::to_string(id) + " (from '" + tensor_of(bucket, 0) +
                    "') after iteration " + std::to_string(theirs.iteration) + " are not those of " +
                    describe_(rank) + "; load the last checkpoint, and report this: it should not happen");
  }
}

void SparseRule::check_full_digest(const SparseBucket& bucket, BucketId id) const {
  const Digest kept = bucket.digests.newest();
  if (hash_all_blocks(bucket.weights) == kept.value) return;
  throw Error(ErrorCode::mismatch, "the weights of bucket " + std::to_string(id) +
                                       " of this member changed outside of the optimizer before iteration " +
                                       std::to_string(kept.iteration) +
                                       ": faulty memory, or a write through a stray pointer");
}

void SparseRule::publish(BucketId id, Iteration t, std::span<float* const> parameters) {
  SparseBucket& bucket = *buckets_[id];
  while (!bucket.unpublished.empty() && bucket.unpublished.front().iteration <= t) {
    for_each_run(bucket.layout, bucket.unpublished.front().blocks,
                 [&](const Slice& slice, std::size_t first, std::size_t numel) {
                   std::memcpy(parameters[slice.tensor] + slice.begin + (first - slice.offset),
                               bucket.weights.data() + first, numel * sizeof(float));
                 });
    bucket.unpublished.pop_front();
  }
}

std::uint64_t SparseRule::digest() const {
  std::uint64_t digest = 0;
  for (const auto& bucket : buckets_) digest = digest * 0x9e3779b97f4a7c15 + bucket->digests.newest().value;
  return digest;
}

std::span<float> SparseRule::weights(BucketId id) { return buckets_[id]->weights; }

void SparseRule::read_parameters(std::span<float* const> parameters) {
  for (const auto& bucket : buckets_) {
    for (const Slice& slice : bucket->layout.slices) {
      std::memcpy(bucket->weights.data() + slice.offset, parameters[slice.tensor] + slice.begin,
                  slice.numel * sizeof(float));
    }
  }
}

void SparseRule::restore_parameters(std::span<float* const> parameters) {
  for (const auto& bucket : buckets_) {
    std::vector<bool> behind(bucket->layout.blocks);
    for (const Unpublished& update : bucket->unpublished) {
      for (const BlockId block : update.blocks) behind[block] = true;
    }
    for (const Slice& slice : bucket->layout.slices) {
      for (std::size_t begin = 0; begin < slice.numel; begin += kBlock) {
        const std::size_t first = slice.offset + begin;
        if (behind[first / kBlock]) continue;
        std::memcpy(parameters[slice.tensor] + slice.begin + begin, bucket->weights.data() + first,
                    std::min(kBlock, slice.numel - begin) * sizeof(float));
      }
    }
  }
}

std::vector<StateArray> SparseRule::state() {
  std::vector<StateArray> arrays;
  for (const auto& bucket : buckets_) {
    for (const Slice& slice : bucket->layout.slices) {
      const auto add = [&](const std::string& name, bool consensus, void* data) {
        arrays.push_back({name, slice.tensor, consensus, slice.begin, slice.numel, data});
      };
      add("weights", true, bucket->weights.data() + slice.offset);
      for (const StateTensor& moment : bucket->optimizer->state()) {
        add(moment.name, true, moment.values.data() + slice.offset);
      }
      add("steps", true, bucket->optimizer->steps().data() + slice.offset / kBlock);
      add("residual", false, bucket->residual.data() + slice.offset);
    }
  }
  return arrays;
}

bool SparseRule::allocate_moment(const std::string& name, std::uint32_t tensor) {
  bool known = false;
  for (const auto& bucket : buckets_) {
    const auto& slices = bucket->layout.slices;
    const bool there =
        std::ranges::any_of(slices, [=](const Slice& slice) { return slice.tensor == tensor; });
    if (there) known = bucket->optimizer->allocate(name);
  }
  return known;
}

SelectorState SparseRule::selector_state() const {
  SelectorState state{selector_, {}};
  for (const auto& bucket : buckets_)
    std::ranges::copy(bucket->selector->state(), std::back_inserter(state.words));
  return state;
}

bool SparseRule::set_selector_state(const SelectorState& state) {
  Selector::State own;
  if (state.selector != selector_ || state.words.size() != buckets_.size() * own.size()) return false;
  auto words = state.words.begin();
  for (const auto& bucket : buckets_) {
    std::copy_n(words, own.size(), own.begin());
    bucket->selector->set_state(own);
    words += static_cast<std::ptrdiff_t>(own.size());
  }
  return true;
}

void SparseRule::state_loaded(Iteration iteration, std::span<float* const> parameters) {
  for (const auto& bucket : buckets_) {
    bucket->count_padding();
    bucket->digests.restart({iteration, hash_all_blocks(bucket->weights)});
    Unpublished behind{iteration, {}};
    for (const Slice& slice : bucket->layout.slices) {
      for (std::size_t begin = 0; begin < slice.numel; begin += kBlock) {
        const std::size_t first = slice.offset + begin;
        const std::size_t bytes = std::min(kBlock, slice.numel - begin) * sizeof(float);
        if (std::memcmp(bucket->weights.data() + first, parameters[slice.tensor] + slice.begin + begin,
                        bytes) != 0) {
          behind.blocks.push_back(static_cast<BlockId>(first / kBlock));
        }
      }
    }
    bucket->unpublished.clear();
    if (!behind.blocks.empty()) bucket->unpublished.push_back(std::move(behind));
  }
}

const std::string& SparseRule::tensor_of(const SparseBucket& bucket, BlockId block) const {
  const auto after =
      std::upper_bound(bucket.layout.slices.begin(), bucket.layout.slices.end(), std::size_t{block} * kBlock,
                       [](std::size_t element, const Slice& slice) { return element < slice.offset; });
  return names_[std::prev(after)->tensor];
}

}  // namespace stella
