// How members find each other through member 0: it sends everybody the table of addresses.
#include <asio/ip/address.hpp>

#include "membership/control_content.hpp"
#include "membership/mesh.hpp"

namespace stella {

// An empty host stands for the one by which a member reaches member 0: it shares member 0's machine.
void Mesh::send_addresses() {
  std::vector<Address> table;
  for (const MemberInfo& member : members_) {
    if (member.rank == 0) {
      table.push_back({"", port_});
      continue;
    }
    Address address = parse_address(member.address);
    std::error_code error;
    const auto number = asio::ip::make_address(address.host, error);
    if (!error && number.is_loopback()) address.host.clear();
    table.push_back(std::move(address));
  }
  send_to_all({0, Collective::addresses, ""}, encode_addresses(table));
}

asio::awaitable<void> Mesh::receive_addresses(const Address& coordinator) {
  const Call call{0, Collective::addresses, ""};
  while (!failure_ && !peers_[0].connection) co_await changed_.wait();
  // As long as member 0 waits for others, up to the join timeout.
  const ControlMessage message = co_await next_message(0, call);
  auto table = decode_addresses(message.content(), options_.world_size, describe(0));
  for (Rank rank = 1; rank < options_.world_size; ++rank) {
    if (table[rank].host.empty()) table[rank].host = coordinator.host;
    members_[rank].address = to_string(table[rank]);
  }
}

}  // namespace stella
