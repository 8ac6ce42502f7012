#include "membership/group.hpp"

#include "membership/mesh.hpp"

namespace stella {

Group::Group(asio::io_context& io, GroupOptions options, Logger log)
    : mesh_(std::make_unique<Mesh>(io, std::move(options), std::move(log))) {}
Group::~Group() = default;

std::uint16_t Group::listen() { return mesh_->listen(); }
asio::awaitable<void> Group::join(std::vector<std::string> addresses) {
  return mesh_->join(std::move(addresses));
}
asio::awaitable<void> Group::join_through(std::string coordinator) {
  return mesh_->join_through(std::move(coordinator));
}

Rank Group::rank() const { return mesh_->options().rank; }
std::uint32_t Group::world_size() const { return mesh_->options().world_size; }
const std::vector<MemberInfo>& Group::members() const { return mesh_->members(); }
std::string Group::describe(Rank rank) const { return stella::describe(members().at(rank)); }

void Group::on_payload(PayloadHandler handler) { mesh_->on_payload = std::move(handler); }
void Group::send_payload(Rank to, std::shared_ptr<const Bytes> body, Priority priority) {
  mesh_->send_payload(to, std::move(body), priority);
}

void Group::on_round(std::function<void(Rank, const Bytes&)> handler) {
  mesh_->on_round = std::move(handler);
}
void Group::send_round(Rank to, std::shared_ptr<const Bytes> message) {
  mesh_->send_round(to, std::move(message));
}
void Group::on_weights(std::function<void(Rank, Bytes)> handler) { mesh_->on_weights = std::move(handler); }
void Group::send_weights(Rank to, std::vector<std::shared_ptr<const Bytes>> parts) {
  mesh_->send_weights(to, std::move(parts));
}
std::size_t Group::queued_payload_bytes(Rank to) const { return mesh_->queued_payload_bytes(to); }
void Group::discard_payloads() { mesh_->discard_payloads(); }
bool Group::waits_in_call() const { return mesh_->waits_in_call(); }
std::chrono::milliseconds Group::peer_timeout() const { return mesh_->options().peer_timeout; }
void Group::set_peer_timeout(std::chrono::milliseconds timeout) { mesh_->set_peer_timeout(timeout); }
std::chrono::nanoseconds Group::silent_for(Rank peer) const { return mesh_->silent_for(peer); }

asio::awaitable<std::vector<Bytes>> Group::all_gather(std::string tag, Bytes mine) {
  return mesh_->all_gather(Collective::all_gather, std::move(tag), std::move(mine));
}
asio::awaitable<void> Group::broadcast(std::string tag, Rank root, std::span<std::byte> data) {
  return mesh_->broadcast(std::move(tag), root, {data});
}
asio::awaitable<void> Group::broadcast(std::string tag, Rank root, std::vector<std::span<std::byte>> parts) {
  return mesh_->broadcast(std::move(tag), root, std::move(parts));
}
asio::awaitable<void> Group::barrier(std::string tag) {
  co_await mesh_->all_gather(Collective::barrier, std::move(tag), {});
}

std::optional<CallAhead> Group::call_ahead(Rank rank) const { return mesh_->call_ahead(rank); }
void Group::on_call(std::function<void()> handler) { mesh_->on_call = std::move(handler); }
void Group::set_begun(Iteration iteration) { mesh_->set_begun(iteration); }
void Group::set_collective_timeout(std::chrono::milliseconds timeout) {
  mesh_->set_collective_timeout(timeout);
}

void Group::on_failure(std::function<void(const Error&)> handler) { mesh_->on_failure = std::move(handler); }
void Group::on_left(std::function<void(Rank)> handler) { mesh_->on_left = std::move(handler); }
bool Group::has_left(Rank rank) const { return mesh_->has_left(rank); }
const Error* Group::failure() const { return mesh_->failure(); }

asio::awaitable<void> Group::abort(std::string sentence, ErrorCode code) {
  return mesh_->abort(std::move(sentence), code);
}
asio::awaitable<void> Group::leave() { return mesh_->leave(); }
asio::awaitable<void> Group::close() { return mesh_->close(); }

const Logger& Group::log() const { return mesh_->log(); }
Traffic Group::traffic(Rank peer) const { return mesh_->traffic(peer); }

}  // namespace stella
