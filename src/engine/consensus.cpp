#include "engine/consensus.hpp"

#include <algorithm>
#include <array>
#include <limits>
#include <numeric>
#include <utility>

#include "kernels/finite.hpp"
#include "kernels/reduce.hpp"
#include "stella/error.hpp"

namespace stella {
namespace {

constexpr std::size_t kParts = kFragmentBlock / kBlock;
constexpr std::size_t kAtATime = 256;  // blocks of kBlock

// Of kBlock, as digests count them.
std::vector<BlockId> small_blocks_of(const Fragment& fragment) {
  std::vector<BlockId> all(fragment.blocks * kParts);
  std::iota(all.begin(), all.end(), static_cast<BlockId>(fragment.first * kParts));
  return all;
}

// Calls each(blocks, begin, end) for at most kAtATime blocks of kBlock at a time: those that places[begin] to
// places[end] lie in.
template <class Each>
void for_each_run(std::span<const std::uint32_t> places, const Fragment& fragment, Each each) {
  std::vector<BlockId> blocks;
  std::size_t begin = 0;
  for (std::size_t k = 0; k < places.size(); ++k) {
    const auto block = static_cast<BlockId>(fragment.first * kParts + places[k] / kBlock);
    if (!blocks.empty() && blocks.back() == block) continue;
    if (blocks.size() == kAtATime) {
      each(blocks, begin, k);
      blocks.clear();
      begin = k;
    }
    blocks.push_back(block);
  }
  if (!blocks.empty()) each(blocks, begin, places.size());
}

void check_sum(std::span<const float> sum, Iteration round) {
  if (find_nonfinite(sum) == sum.size()) return;
  throw Error(ErrorCode::nonfinite, "what the members learned overflows when added up, in " +
                                        place_of_round(round) + "; lower the learning rate");
}

}  // namespace

Consensus::Consensus(std::size_t blocks, std::vector<ShortBlock> short_blocks, RoundSize first,
                     std::size_t most, DescribeMember describe)
    : short_blocks_(std::move(short_blocks)),
      describe_(std::move(describe)),
      schedule_(blocks, first, most),
      weights_(blocks * kFragmentBlock) {}

std::span<float> Consensus::weights_of(const Fragment& fragment) {
  return weights_.span().subspan(fragment.first * kFragmentBlock, fragment.blocks * kFragmentBlock);
}

std::vector<ShortBlock> Consensus::short_blocks_in(const Fragment& fragment) const {
  std::vector<ShortBlock> found;
  auto next = std::ranges::lower_bound(short_blocks_, fragment.first, {}, &ShortBlock::block);
  for (; next != short_blocks_.end() && next->block < fragment.first + fragment.blocks; ++next)
    found.push_back({static_cast<BlockId>(next->block - fragment.first), next->numel});
  return found;
}

void Consensus::weights_loaded(Iteration round) { digests_.restart({round, hash_all_blocks(weights_)}); }

Consensus::Merged Consensus::merge(const Gathered& all, const Fragment& fragment, std::span<float> mean,
                                   const Own* own) {
  const std::vector<ShortBlock> short_blocks = short_blocks_in(fragment);
  std::vector<Contribution> contributions;
  std::vector<ListedValues> lists;
  Merged merged;
  double weights = 0;
  std::optional<RoundSize> announced;
  for (Rank rank = 0; rank < all.payloads.size(); ++rank) {
    const PayloadPtr& payload = all.payloads[rank];
    if (!payload || payload->header().samples == 0) continue;
    merged.slowest = std::max(merged.slowest, payload->taken());
    naming(rank, all.iteration, [&] {
      FragmentBody body = read_fragment_body(payload->body(), fragment, short_blocks);
      if (!announced) announced = body.announced;
      announced->blocks = std::min(announced->blocks, body.announced.blocks);
      announced->bits = std::min(announced->bits, body.announced.bits);
      contributions.push_back({rank, std::move(body.values)});
    });
    weights += payload->header().samples;
    auto list = contributions.back().values.list();
    if (!list) continue;
    if (own && rank == own->rank) {
      merged.told = list;
      divide(merged.told->values, own->weight);
    }
    lists.push_back(std::move(*list));
  }
  merged.empty = contributions.empty();
  if (merged.empty) return merged;
  schedule_.announce(all.iteration, *announced);
  if (lists.size() == contributions.size()) {
    merged.changes = sum_of(lists);
    divide(merged.changes->values, static_cast<float>(weights));
    check_sum(merged.changes->values, all.iteration);
  } else {
    add_up(contributions, static_cast<float>(weights), all.iteration, mean, own);
  }
  return merged;
}

// Piece by piece, so that each sum grows in the first cache.
void Consensus::add_up(std::span<const Contribution> contributions, float weights, Iteration round,
                       std::span<float> mean, const Own* own) const {
  constexpr std::size_t kPiece = 4096;  // values
  std::array<float, kPiece> received;
  for (std::size_t at = 0; at < mean.size(); at += kPiece) {
    const auto sum = mean.subspan(at, std::min(kPiece, mean.size() - at));
    const auto correction = own ? own->correction.subspan(at, sum.size()) : std::span<float>();
    for (const auto& [rank, contribution] : contributions) {
      const bool first = rank == contributions.front().rank;
      const std::span<float> piece = first ? sum : std::span(received).first(sum.size());
      naming(rank, round, [&] { contribution.read(at, piece); });
      if (own && rank == own->rank) std::ranges::copy(piece, correction.begin());
      if (!first) add(piece, sum.data());
    }
    divide(sum, weights);
    check_sum(sum, round);
    if (!own) continue;
    divide(correction, -own->weight);
    add(sum, correction.data());
  }
}

std::optional<Fragment> Consensus::fragment_of(const Gathered& all) const {
  for (Rank rank = 0; rank < all.payloads.size(); ++rank) {
    const PayloadPtr& payload = all.payloads[rank];
    if (!payload || payload->header().samples == 0) continue;
    std::optional<Fragment> found;
    naming(rank, all.iteration, [&] { found = peek_fragment(payload->body(), schedule_.total()); });
    return found;
  }
  return std::nullopt;
}

std::size_t Consensus::apply(Iteration round, const Fragment& fragment, const Merged& merged,
                             std::span<const float> mean) {
  std::uint64_t digest = digests_.newest().value;
  std::size_t changed = 0;
  float* weights = weights_of(fragment).data();
  // A few blocks at a time, so that they are in the first cache when they are hashed once more.
  const auto change = [&](std::span<const BlockId> blocks, auto add_to_them) {
    digest -= hash_blocks(blocks, weights_);
    add_to_them();
    digest += hash_blocks(blocks, weights_);
    changed += blocks.size();
  };
  if (merged.changes) {
    const auto& [places, values] = *merged.changes;
    for_each_run(places, fragment, [&](std::span<const BlockId> blocks, std::size_t begin, std::size_t end) {
      change(blocks, [&] {
        for (std::size_t k = begin; k < end; ++k) weights[places[k]] += values[k];
      });
    });
  } else if (!merged.empty) {
    const std::vector<BlockId> all = small_blocks_of(fragment);
    for (std::size_t at = 0; at < all.size(); at += kAtATime) {
      const auto blocks = std::span(all).subspan(at, std::min(kAtATime, all.size() - at));
      change(blocks, [&] { add(mean.subspan(at * kBlock, blocks.size() * kBlock), weights + at * kBlock); });
    }
  }
  digests_.add({round, digest});
  if (round % kFullDigestEvery == 0 && hash_all_blocks(weights_) != digest) {
    throw Error(ErrorCode::mismatch,
                "the consensus weights of this member changed outside of the engine before " +
                    place_of_round(round) + ": faulty memory, or a write through a stray pointer");
  }
  return changed;
}

void Consensus::check_digests(std::span<const std::pair<Rank, Digest>> digests, Iteration round,
                              bool strict) const {
  for (const auto& [rank, theirs] : digests) {
    const auto ours = digests_.at(theirs.iteration);
    if (!ours && strict) {
      throw Error(ErrorCode::protocol, describe_(rank) + " reports a digest of round " +
                                           std::to_string(theirs.iteration) + " in " + place_of_round(round));
    }
    if (!ours || *ours == theirs.value) continue;
    throw Error(ErrorCode::mismatch, "the consensus weights after round " + std::to_string(theirs.iteration) +
                                         " are not those of " + describe_(rank) +
                                         "; load the last checkpoint, and report this: it should not happen");
  }
}

// Puts the member and the place in the run before the sentence of what `read` throws.
template <class Read>
void Consensus::naming(Rank rank, Iteration round, Read read) const {
  try {
    read();
  } catch (const Error& error) {
    throw Error(error.code(), describe_(rank) + " in " + place_of_round(round) + ": " + error.what());
  }
}

std::string place_of_round(Iteration round) { return "round " + std::to_string(round); }

}  // namespace stella
