// Who a member is, for people and for connecting.
#pragma once

#include <string>

#include "base/ids.hpp"

namespace stella {

struct MemberInfo {
  Rank rank = 0;
  std::string name;      // STELLA_MEMBER, for people
  std::string cluster;   // STELLA_CLUSTER: members with equal names are joined by fast links
  std::string hostname;  // of its machine
  std::string address;   // host:port where it listens ([host]:port for IPv6)
};

// "member 2 (c1m0, 10.77.0.3:4242)"; empty parts are left out.
std::string describe(const MemberInfo& member);

}  // namespace stella
