// What the coordinator of rule="local" decides: which members a round is of. No member is waited for longer
// than the others want to.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "base/ids.hpp"
#include "base/rank_set.hpp"
#include "exchange/round_message.hpp"
#include "exchange/round_plan.hpp"

namespace stella {

// A round is committed once all its members hold the payloads of all its members: so everybody can apply what
// is committed, whoever falls silent then. Pure, without a clock; one thread at a time.
//
// A member that is left out of a round is out of all later ones, until it has heard enough of them to
// contribute again: rejoins(), then ready().
class RoundCommits {
 public:
  // Fewer are no round: a single member has nobody to tell.
  static constexpr std::uint32_t kLeast = 2;

  RoundCommits(std::uint32_t members, Iteration committed);

  // The round that comes next, and the members that it is of as things stand.
  Iteration round() const { return plan_.committed() + 1; }
  const RankSet& set() const { return plan_.contributing(round()); }
  const RankSet& listening() const { return listening_; }
  // Who of them has not reported that it holds the payloads of all.
  RankSet awaited() const { return set().without(reporters()); }

  // What members have told. What is late or of another set than the present one changes nothing.
  void holds(Rank rank, Iteration round, const RankSet& set);
  void rejoins(Rank rank);
  void ready(Rank rank);
  // It hears nothing any more.
  void stop_listening(Rank rank) { listening_.remove(rank); }

  // The commit of the next round, once it is possible; to be sent to audience(). Then call sent().
  std::optional<RoundMessage> commit();
  const RankSet& audience() const { return audience_; }
  void sent();

  // The next round has taken too long. A smaller set for it, to be sent to the members of that set; nothing
  // if nobody can be left out.
  //   here    whose payloads of that round have come to the coordinator's machine
  //   silent  who has not been heard of for long
  std::optional<RoundMessage> leave_out(const RankSet& here, const RankSet& silent);

 private:
  std::uint32_t members() const { return audience_.members(); }
  RankSet reporters() const;

  RoundPlan plan_;
  std::vector<std::map<Iteration, RankSet>> reports_;  // by rank: the newest of each round that is to come
  RankSet contributing_, listening_;                   // as the next commit will say
  RankSet again_;  // to be listed as listening, after one commit that does not
  RankSet audience_;
};

}  // namespace stella
