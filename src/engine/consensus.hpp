// What all members of rule="local" have in common: the consensus weights W, which part of them each round is
// about, and how a round changes them.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/aligned.hpp"
#include "compress/encoding.hpp"
#include "compress/listed_values.hpp"
#include "engine/digest.hpp"
#include "engine/fragment_body.hpp"
#include "engine/fragments.hpp"
#include "engine/rule.hpp"
#include "exchange/exchange.hpp"

namespace stella {

// Equal rounds in equal order make equal weights, bit for bit. merge() of a round may run beside anything of
// other rounds; apply() and what reads or writes `weights` one at a time.
class Consensus {
 public:
  //   blocks         of kFragmentBlock values, of all parameters
  //   short_blocks   of those that end before their block does
  //   first, most    see FragmentSchedule
  Consensus(std::size_t blocks, std::vector<ShortBlock> short_blocks, RoundSize first, std::size_t most,
            DescribeMember describe);

  FragmentSchedule& schedule() { return schedule_; }
  // [blocks * kFragmentBlock]; values behind the end of a parameter are 0.
  std::span<float> weights() { return weights_.span(); }
  std::span<float> weights_of(const Fragment& fragment);
  std::vector<ShortBlock> short_blocks_in(const Fragment& fragment) const;
  Digest digest() const { return digests_.newest(); }
  // weights() were filled; `round` is the newest one in them.
  void weights_loaded(Iteration round);

  // The part of this member in a round that it contributed to, with c_i = its contribution over its weight.
  struct Own {
    Rank rank = 0;
    float weight = 1;
    std::span<float> correction;  // for G - c_i, [of the fragment]
  };
  // What a round says: G = sum of w_j c_j / sum of w_j over those that contributed, in member order.
  struct Merged {
    bool empty = true;                    // nobody contributed
    std::chrono::nanoseconds slowest{0};  // of the links to here
    std::optional<ListedValues> changes;  // G, if all contributions are lists (signs)
    std::optional<ListedValues> told;     // c_i, if this member's is
  };
  // If G is not listed, writes it to `mean`, [of the fragment], and G - c_i to own->correction. Announces the
  // size that the contributions ask for. Throws Error(protocol) that names the member, Error(nonfinite) if G
  // overflows.
  //   own  null for a member that has no part in the round
  Merged merge(const Gathered& all, const Fragment& fragment, std::span<float> mean, const Own* own);
  // The fragment that a round of others is about, by what they sent. All payloads null, or no body: none.
  // Throws as merge() does.
  std::optional<Fragment> fragment_of(const Gathered& all) const;

  // W += G, of what merge() returned and wrote. Returns how many blocks of kBlock changed. Throws
  // Error(mismatch) when the weights changed by themselves.
  std::size_t apply(Iteration round, const Fragment& fragment, const Merged& merged,
                    std::span<const float> mean);
  // Throws Error(mismatch) for a digest that is not that of these weights.
  //   strict  also Error(protocol) for one of a round that is not known any more, or not yet
  void check_digests(std::span<const std::pair<Rank, Digest>> digests, Iteration round, bool strict) const;

 private:
  struct Contribution {
    Rank rank;
    EncodedBlocks values;
  };
  template <class Read>
  void naming(Rank rank, Iteration round, Read read) const;
  void add_up(std::span<const Contribution> contributions, float weights, Iteration round,
              std::span<float> mean, const Own* own) const;

  const std::vector<ShortBlock> short_blocks_;
  const DescribeMember describe_;
  FragmentSchedule schedule_;
  AlignedArray<float> weights_;
  DigestHistory digests_;
};

// "round 12", for errors.
std::string place_of_round(Iteration round);

}  // namespace stella
