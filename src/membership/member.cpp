#include "membership/member.hpp"

namespace stella {

std::string describe(const MemberInfo& member) {
  std::string inside = member.name;
  if (!inside.empty() && !member.address.empty()) inside += ", ";
  inside += member.address;
  const std::string who = "member " + std::to_string(member.rank);
  return inside.empty() ? who : who + " (" + inside + ")";
}

}  // namespace stella
