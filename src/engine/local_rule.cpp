#include "engine/local_rule.hpp"

#include <algorithm>
#include <chrono>
#include <cstring>
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

// Calls each(at, size) for some values at a time, which fit the first cache.
template <class Each>
void for_each_piece(std::size_t values, Each each) {
  constexpr std::size_t kPiece = 4096;
  for (std::size_t at = 0; at < values; at += kPiece) each(at, std::min(kPiece, values - at));
}

std::optional<ValueCoding> chosen(const std::string& wire) {
  if (wire == "auto") return std::nullopt;
  return coding_named(wire);
}

bool may_hide(const EngineOptions& options) {
  return (options.wire == "auto" || options.wire == "signs") && options.pull != 0.0;
}

}  // namespace

LocalRule::LocalRule(std::span<const TensorSpec> tensors, const EngineOptions& options, Rank rank,
                     DescribeMember describe)
    : layout_(layout_of(tensors)),
      short_blocks_(short_blocks_of(layout_)),
      rank_(rank),
      describe_(std::move(describe)),
      wire_(chosen(options.wire)),
      hidden_(may_hide(options) ? layout_.blocks / kParts * kFragmentBlock : 0, options.pull),
      asked_for_{std::max<std::size_t>(1, options.bucket_bytes / sizeof(float) / kFragmentBlock), 0} {
  consensus_ = blank();
}

std::unique_ptr<Consensus> LocalRule::blank() const {
  return std::make_unique<Consensus>(layout_.blocks / kParts, short_blocks_, asked_for_,
                                     most_blocks(ValueCoding::int1), describe_);
}

std::optional<std::uint32_t> LocalRule::copy(BucketId, const StepInput& input) {
  FragmentSchedule& schedule = this->schedule();
  const Fragment fragment = schedule.next();
  Round& round = under_way(schedule.round());
  round.fragment = fragment;
  round.size = schedule.size();
  round.whole = fragment.blocks == round.size.blocks;
  round.contributed = !input.skip;
  round.weight = static_cast<float>(input.samples);
  for (AlignedArray<float>* array : {&round.values, &round.mean}) {
    if (array->size() < fragment.blocks * kFragmentBlock)
      *array = AlignedArray<float>::uninitialized(fragment.blocks * kFragmentBlock);
  }
  if (input.skip) return std::nullopt;
  std::optional<std::uint32_t> bad;
  for_each_slice_in(fragment, [&](const Slice& slice, std::size_t at, std::size_t numel, std::size_t padded) {
    const std::span<float> values = part_of(round.values, round).subspan(at, padded);
    const float* own = input.parameters[slice.tensor] + slice.begin;
    for_each_piece(numel, [&](std::size_t begin, std::size_t size) {
      const std::span<float> piece = values.subspan(begin, size);
      std::memcpy(piece.data(), own + begin, piece.size_bytes());
      if (!bad && find_nonfinite(piece) < size) bad = slice.tensor;
    });
    std::ranges::fill(values.subspan(numel), 0.0f);
  });
  return bad;
}

void LocalRule::drop(BucketId, const StepInput&) { under_way(schedule().round()).contributed = false; }

PayloadPtr LocalRule::contribute(BucketId bucket, const Step& step) {
  Round& round = under_way(step.iteration);
  PayloadHeader header;
  header.level = step.level;
  header.iteration = step.iteration;
  header.bucket = bucket;
  header.digest = consensus_->digest();
  Bytes body;
  if (round.contributed) {
    header.samples = step.input.samples;
    const std::span<float> values = part_of(round.values, round);
    const std::size_t first = round.fragment.first * kFragmentBlock;
    for_each_piece(values.size(), [&](std::size_t at, std::size_t size) {
      const std::span<float> piece = values.subspan(at, size);
      subtract(weights().subspan(first + at, size), piece.data());
      if (!hidden_.is_empty()) add(hidden_.values().subspan(first + at, size), piece.data());
      if (round.weight != 1) divide(piece, 1 / round.weight);
    });
    RoundSize asked_for;
    {
      std::lock_guard lock(mutex_);
      asked_for = asked_for_;
    }
    body = write_fragment_body(asked_for, round.fragment, coding_of(round),
                               consensus_->short_blocks_in(round.fragment), values);
    blocks_sent_ += round.fragment.blocks * kParts;
  }
  return std::make_shared<const Payload>(header, body);
}

ValueCoding LocalRule::coding_of(const Round& round) const {
  ValueCoding coding = wire_ ? *wire_ : coding_of_bits(round.size.bits);
  if (finely_) coding = std::min(coding, ValueCoding::int8);
  while (round.fragment.blocks > most_blocks(coding))  // it must fit a frame
    coding = static_cast<ValueCoding>(static_cast<int>(coding) + 1);
  return coding;
}

Update LocalRule::merge(BucketId, const Gathered& all) {
  Update update;
  update.iteration = all.iteration;
  update.newcomers = all.newcomers;
  for (Rank rank = 0; rank < all.payloads.size(); ++rank) {
    if (all.payloads[rank]) update.digests.emplace_back(rank, all.payloads[rank]->header().digest);
  }
  Round& round = under_way(update.iteration);
  round.part = all.payloads[rank_] != nullptr;
  round.contributed = round.contributed && round.part;
  const Consensus::Own own{rank_, round.weight, part_of(round.values, round)};
  round.of_all =
      consensus_->merge(all, round.fragment, part_of(round.mean, round), round.contributed ? &own : nullptr);
  return update;
}

void LocalRule::apply(BucketId, Update update) {
  consensus_->check_digests(update.digests, update.iteration, /*strict=*/true);
  Round& round = under_way(update.iteration);
  blocks_applied_ +=
      consensus_->apply(update.iteration, round.fragment, round.of_all, part_of(round.mean, round));
  if (!update.newcomers.empty() && tell_newcomers_)
    tell_newcomers_(update.newcomers, consensus_->digest(), consensus_->weights());
  if (!round.whole || !round.contributed) return;
  const std::chrono::duration<double> slowest = round.of_all.slowest;
  std::lock_guard lock(mutex_);
  measured_ = {{round.fragment.blocks, round.size.bits}, slowest.count()};
}

void LocalRule::publish(BucketId, Iteration t, std::span<float* const> parameters) {
  Round& round = under_way(t);
  const Consensus::Merged& merged = round.of_all;
  if (!round.part || merged.empty) return;
  for_each_slice_in(round.fragment, [&](const Slice& slice, std::size_t at, std::size_t numel, std::size_t) {
    for_each_piece(numel, [&](std::size_t begin, std::size_t size) {
      publish_part(round, at + begin, {parameters[slice.tensor] + slice.begin + begin, size});
    });
  });
  hidden_.round_over();
}

// Of the parameters `own`, which begin `at` values behind the begin of the fragment.
void LocalRule::publish_part(const Round& round, std::size_t at, std::span<float> own) {
  const auto& changes = round.of_all.changes;
  const auto& told = round.of_all.told;
  if (changes) {
    changes->for_each_in(at, own.size(), [&](std::size_t i, float change) { own[i] += change; });
    if (told) told->for_each_in(at, own.size(), [&](std::size_t i, float value) { own[i] -= value; });
  } else {
    add({(round.contributed ? round.values : round.mean).data() + at, own.size()}, own.data());
  }
  if (hidden_.is_empty() || !round.contributed) return;
  const std::size_t in_model = round.fragment.first * kFragmentBlock + at;
  if (!told) return hidden_.show(in_model, own);
  const auto* listed = changes ? &*changes : nullptr;
  hidden_.settle({own, weights().data() + in_model, at, in_model, listed, round.mean.data() + at}, *told);
}

std::optional<LocalRule::Measured> LocalRule::newly_measured() {
  std::lock_guard lock(mutex_);
  return std::exchange(measured_, std::nullopt);
}

void LocalRule::ask_for(RoundSize size) {
  std::lock_guard lock(mutex_);
  asked_for_ = size;
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
    const std::size_t numel = std::min(slice->numel - skipped, end - first);
    const std::size_t padded =
        std::min((numel + kFragmentBlock - 1) / kFragmentBlock * kFragmentBlock, end - first);
    visit(Slice{slice->tensor, slice->begin + skipped, numel, first}, first - begin, numel, padded);
  }
}

void LocalRule::read_parameters(std::span<float* const> parameters) {
  for (const Slice& slice : layout_.slices) {
    std::memcpy(weights().data() + slice.offset, parameters[slice.tensor] + slice.begin,
                slice.numel * sizeof(float));
  }
}

void LocalRule::write_parameters(std::span<float* const> parameters) {
  for (const Slice& slice : layout_.slices) {
    std::memcpy(parameters[slice.tensor] + slice.begin, weights().data() + slice.offset,
                slice.numel * sizeof(float));
  }
}

void LocalRule::adopt(std::unique_ptr<Consensus> theirs, std::span<float* const> parameters) {
  for (const Slice& slice : layout_.slices) {
    float* own = parameters[slice.tensor] + slice.begin;
    const std::span<float> change = weights().subspan(slice.offset, slice.numel);
    subtract(theirs->weights().subspan(slice.offset, slice.numel), change.data());
    divide(change, -1);
    add(change, own);
  }
  consensus_ = std::move(theirs);
}

std::vector<StateArray> LocalRule::state() {
  std::vector<StateArray> arrays;
  for (const Slice& slice : layout_.slices) {
    arrays.push_back(
        {"weights", slice.tensor, true, slice.begin, slice.numel, weights().data() + slice.offset});
    if (hidden_.is_empty()) continue;
    arrays.push_back(
        {"hidden", slice.tensor, false, slice.begin, slice.numel, hidden_.values().data() + slice.offset});
  }
  return arrays;
}

}  // namespace stella
