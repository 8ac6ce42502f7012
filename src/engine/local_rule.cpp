#include "engine/local_rule.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/finite.hpp"
#include "kernels/reduce.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::size_t kParts = kFragmentBlock / kBlock;

// All parameters behind each other, whatever their param_group: the user's optimizer knows those.
BucketLayout layout_of(std::span<const TensorSpec> tensors) {
  std::vector<TensorSpec> of_one_group(tensors.begin(), tensors.end());
  for (TensorSpec& tensor : of_one_group) tensor.group = 0;
  constexpr std::size_t kNoLimit = std::size_t{1} << 48;
  return std::move(plan_buckets(of_one_group, kNoLimit, kFragmentBlock).front());
}

std::vector<BlockId> ids(std::size_t first, std::size_t count) {
  std::vector<BlockId> all(count);
  std::iota(all.begin(), all.end(), static_cast<BlockId>(first));
  return all;
}

// Of kBlock, as digests count them.
std::vector<BlockId> small_blocks_of(const Fragment& fragment) {
  return ids(fragment.first * kParts, fragment.blocks * kParts);
}

}  // namespace

LocalRule::LocalRule(std::span<const TensorSpec> tensors, const EngineOptions& options, Rank rank,
                     DescribeMember describe)
    : layout_(layout_of(tensors)),
      short_blocks_(short_blocks_of(layout_)),
      rank_(rank),
      describe_(std::move(describe)),
      coding_(coding_named(options.wire == "auto" ? "int1" : options.wire)),
      schedule_(layout_.blocks / kParts,
                std::max<std::size_t>(1, options.bucket_bytes / sizeof(float) / kFragmentBlock)),
      weights_(layout_.blocks * kBlock) {
  announced_blocks_ = options.bucket_bytes / sizeof(float) / kFragmentBlock;
}

std::optional<std::uint32_t> LocalRule::copy(BucketId, const StepInput& input) {
  const Fragment fragment = schedule_.next();
  Round& round = under_way(schedule_.round());
  round.fragment = fragment;
  round.slowest = {};
  round.whole = fragment.blocks == schedule_.blocks();
  round.contributed = !input.skip;
  round.weight = static_cast<float>(input.samples);
  for (AlignedArray<float>* array : {&round.values, &round.merged}) {
    if (array->size() < fragment.blocks * kFragmentBlock)
      *array = AlignedArray<float>(fragment.blocks * kFragmentBlock);
  }
  if (input.skip) return std::nullopt;
  std::optional<std::uint32_t> bad;
  for_each_slice_in(fragment, [&](const Slice& slice, std::size_t at, std::size_t numel, std::size_t padded) {
    const std::span<float> values = part_of(round.values, round).subspan(at, padded);
    std::memcpy(values.data(), input.parameters[slice.tensor] + slice.begin, numel * sizeof(float));
    std::fill(values.begin() + static_cast<std::ptrdiff_t>(numel), values.end(), 0.0f);
    if (!bad && find_nonfinite(values) < values.size()) bad = slice.tensor;
  });
  return bad;
}

void LocalRule::drop(BucketId, const StepInput&) { under_way(schedule_.round()).contributed = false; }

PayloadPtr LocalRule::contribute(BucketId bucket, const Step& step) {
  Round& round = under_way(step.iteration);
  PayloadHeader header;
  header.level = step.level;
  header.iteration = step.iteration;
  header.bucket = bucket;
  header.digest = digests_.newest();
  Bytes body;
  if (round.contributed) {
    header.samples = step.input.samples;
    const std::span<float> values = part_of(round.values, round);
    subtract(weights_of(round.fragment), values.data());
    if (round.weight != 1) divide(values, 1 / round.weight);
    round.coding = coding_;
    body = write_fragment_body(announced_blocks_, round.fragment, round.coding,
                               short_blocks_in(round.fragment), values);
    blocks_sent_ += round.fragment.blocks * kParts;
  }
  return std::make_shared<const Payload>(header, body);
}

Update LocalRule::merge(BucketId, std::span<const PayloadPtr> payloads) {
  Update update;
  update.iteration = payloads.front()->header().iteration;
  Round& round = under_way(update.iteration);
  const std::vector<ShortBlock> short_blocks = short_blocks_in(round.fragment);
  std::vector<std::pair<Rank, EncodedBlocks>> contributions;
  double weights = 0;
  std::uint64_t announced = std::numeric_limits<std::uint64_t>::max();
  for (Rank rank = 0; rank < payloads.size(); ++rank) {
    const PayloadHeader& header = payloads[rank]->header();
    update.digests.push_back(header.digest);
    if (header.samples == 0) continue;
    round.slowest = std::max(round.slowest, payloads[rank]->taken());
    naming(rank, update.iteration, [&] {
      FragmentBody body = read_fragment_body(payloads[rank]->body(), round.fragment, short_blocks);
      announced = std::min(announced, body.announced_blocks);
      contributions.emplace_back(rank, std::move(body.values));
    });
    weights += header.samples;
  }
  round.empty = contributions.empty();
  if (round.empty) return update;
  schedule_.announce(update.iteration, announced);
  add_up(contributions, static_cast<float>(weights), update.iteration, round);
  return update;
}

// Piece by piece, so that each sum grows in the first cache.
void LocalRule::add_up(const std::vector<std::pair<Rank, EncodedBlocks>>& contributions, float weights,
                       Iteration t, Round& round) {
  constexpr std::size_t kPiece = 4096;  // values
  std::array<float, kPiece> received;
  const std::span<float> merged = part_of(round.merged, round), values = part_of(round.values, round);
  for (std::size_t at = 0; at < merged.size(); at += kPiece) {
    const auto sum = merged.subspan(at, std::min(kPiece, merged.size() - at));
    const auto correction = values.subspan(at, sum.size());
    if (!round.contributed) std::ranges::fill(correction, 0.0f);
    for (const auto& [rank, contribution] : contributions) {
      const bool first = rank == contributions.front().first;
      const std::span<float> piece = first ? sum : std::span(received).first(sum.size());
      naming(rank, t, [&] { contribution.read(at, piece); });
      if (rank == rank_) std::ranges::copy(piece, correction.begin());
      if (!first) add(piece, sum.data());
    }
    divide(sum, weights);
    if (find_nonfinite(sum) < sum.size()) {
      throw Error(ErrorCode::nonfinite, "what the members learned overflows when added up, in " + place(t) +
                                            "; lower the learning rate");
    }
    if (round.contributed) divide(correction, -round.weight);
    add(sum, correction.data());
  }
}

void LocalRule::apply(BucketId, Update update) {
  check_digests(update);
  Round& round = under_way(update.iteration);
  std::uint64_t digest = digests_.newest().value;
  if (round.empty) {
    std::ranges::fill(part_of(round.values, round), 0.0f);
  } else {
    const std::vector<BlockId> blocks = small_blocks_of(round.fragment);
    digest -= hash_blocks(blocks, weights_);
    add(part_of(round.merged, round), weights_of(round.fragment).data());
    digest += hash_blocks(blocks, weights_);
    blocks_applied_ += blocks.size();
  }
  digests_.add({update.iteration, digest});
  if (round.whole && round.contributed) {
    const std::chrono::duration<double> slowest = round.slowest;
    std::lock_guard lock(mutex_);
    measured_ = {round.fragment.blocks, round.coding, slowest.count()};
  }
  if (update.iteration % kFullDigestEvery == 0 && hash_all_blocks(weights_) != digest) {
    throw Error(ErrorCode::mismatch,
                "the consensus weights of this member changed outside of the engine "
                "before " +
                    place(update.iteration) + ": faulty memory, or a write through a stray pointer");
  }
}

void LocalRule::publish(BucketId, Iteration t, std::span<float* const> parameters) {
  Round& round = under_way(t);
  for_each_slice_in(round.fragment, [&](const Slice& slice, std::size_t at, std::size_t numel, std::size_t) {
    add(part_of(round.values, round).subspan(at, numel), parameters[slice.tensor] + slice.begin);
  });
}

// Puts the member and the place in the run before the sentence of what `read` throws.
template <class Read>
void LocalRule::naming(Rank rank, Iteration t, Read read) const {
  try {
    read();
  } catch (const Error& error) {
    throw Error(error.code(), describe_(rank) + " in " + place(t) + ": " + error.what());
  }
}

std::optional<LocalRule::Measured> LocalRule::newly_measured() {
  std::lock_guard lock(mutex_);
  return std::exchange(measured_, std::nullopt);
}

void LocalRule::check_digests(const Update& update) const {
  for (Rank rank = 0; rank < update.digests.size(); ++rank) {
    const Digest& theirs = update.digests[rank];
    const auto ours = digests_.at(theirs.iteration);
    if (!ours) {
      throw Error(ErrorCode::protocol, describe_(rank) + " reports a digest of round " +
                                           std::to_string(theirs.iteration) + " in " +
                                           place(update.iteration));
    }
    if (*ours == theirs.value) continue;
    throw Error(ErrorCode::mismatch, "the consensus weights after round " + std::to_string(theirs.iteration) +
                                         " are not those of " + describe_(rank) +
                                         "; load the last checkpoint, and report this: it should not happen");
  }
}

// Calls visit(slice, at, numel, padded) for what each tensor has in the fragment: `slice` is that part of the
// tensor, which begins at value `at` of the fragment and has `numel` values, `padded` with what fills its
// last block.
template <class Visit>
void LocalRule::for_each_slice_in(const Fragment& fragment, Visit visit) const {
  const std::size_t begin = fragment.first * kFragmentBlock;
  const std::size_t end = begin + fragment.blocks * kFragmentBlock;
  const auto after = std::ranges::upper_bound(layout_.slices, begin, {}, &Slice::offset);
  for (auto slice = std::prev(after); slice != layout_.slices.end() && slice->offset < end; ++slice) {
    const std::size_t first = std::max(begin, slice->offset);
    const std::size_t skipped = first - slice->offset;
    if (skipped >= slice->numel) continue;  // nothing but padding, which belongs to the fragment before
    const std::size_t numel = std::min(slice->numel - skipped, end - first);
    const std::size_t padded =
        std::min((numel + kFragmentBlock - 1) / kFragmentBlock * kFragmentBlock, end - first);
    visit(Slice{slice->tensor, slice->begin + skipped, numel, first}, first - begin, numel, padded);
  }
}

std::vector<ShortBlock> LocalRule::short_blocks_in(const Fragment& fragment) const {
  std::vector<ShortBlock> found;
  auto next = std::ranges::lower_bound(short_blocks_, fragment.first, {}, &ShortBlock::block);
  for (; next != short_blocks_.end() && next->block < fragment.first + fragment.blocks; ++next)
    found.push_back({static_cast<BlockId>(next->block - fragment.first), next->numel});
  return found;
}

std::span<float> LocalRule::weights_of(const Fragment& fragment) {
  return weights_.span().subspan(fragment.first * kFragmentBlock, fragment.blocks * kFragmentBlock);
}

std::string LocalRule::place(Iteration round) const { return "round " + std::to_string(round); }

void LocalRule::read_parameters(std::span<float* const> parameters) {
  for (const Slice& slice : layout_.slices) {
    std::memcpy(weights_.data() + slice.offset, parameters[slice.tensor] + slice.begin,
                slice.numel * sizeof(float));
  }
}

void LocalRule::write_parameters(std::span<float* const> parameters) {
  for (const Slice& slice : layout_.slices) {
    std::memcpy(parameters[slice.tensor] + slice.begin, weights_.data() + slice.offset,
                slice.numel * sizeof(float));
  }
}

void LocalRule::weights_loaded(Iteration round) { digests_.restart({round, hash_all_blocks(weights_)}); }

std::vector<StateArray> LocalRule::state() {
  std::vector<StateArray> arrays;
  for (const Slice& slice : layout_.slices) {
    arrays.push_back(
        {"weights", slice.tensor, true, slice.begin, slice.numel, weights_.data() + slice.offset});
  }
  return arrays;
}

}  // namespace stella
