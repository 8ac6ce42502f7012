"""What goes over the network as numbers of fewer bits: docs/encoding.md."""

from __future__ import annotations

import torch
from conftest import run_members
from training import SMALL_BUCKETS, flat, loss_of, mlp, plain_loop, sgd, vectors

from stellatrain.run import Run

WIRES = ["fp32", "bf16", "int8", "int4", "int2", "int1"]
BATCHES = vectors(8, 16)


def trained(wires: list[str], block: int = 16) -> tuple[float, float]:
    """The loss after 80 steps, and the bytes that member 0 sent; one member for each of `wires`."""

    def member(run: Run) -> tuple[torch.Tensor, float, float]:
        net = nets[run.rank]
        _, optimizer = run.distribute(
            net,
            sgd(net),
            density=0.3,
            staleness=0,
            wire=wires[run.rank],
            block=block,
            bucket_mib=SMALL_BUCKETS,
            rule="sparse",
        )
        for _ in range(10):
            plain_loop(net, optimizer, BATCHES)
        sent = optimizer.stats()["bytes_sent"]
        run.finish()
        return flat(net), loss(net), sent

    nets = [mlp() for _ in wires]
    results = run_members(len(wires), member)
    for weights, _, _ in results:
        assert torch.equal(weights, results[0][0])
    return results[0][1:]


def loss(net: torch.nn.Module) -> float:
    with torch.no_grad():
        return sum(loss_of(net, batch).item() for batch in BATCHES) / len(BATCHES)


def test_fewer_bits_send_less_and_learn_as_the_rounding_error_goes_later() -> None:
    before = loss(mlp())
    losses, sent = zip(*(trained([wire] * 2) for wire in WIRES), strict=True)
    assert list(sent) == sorted(sent, reverse=True)
    assert sent[-1] < sent[0] / 4
    best = before - losses[0]
    assert best > 0
    for wire, after in zip(WIRES, losses, strict=True):
        assert before - after > 0.8 * best, wire


def test_the_signs_of_the_largest_values_send_less_and_learn_more_slowly() -> None:
    before = loss(mlp())
    (of_bits, bits_sent), (of_signs, signs_sent) = trained(["int1"] * 2), trained(["signs"] * 2)
    assert signs_sent < 0.9 * bits_sent  # headers and ids, which both have, are most of it in a small model
    assert before - of_bits > before - of_signs > 0.3 * (before - of_bits) > 0


def test_larger_blocks_of_codes_send_less_and_learn() -> None:
    before = loss(mlp())
    losses, sent = zip(*(trained(["int1"] * 2, block) for block in (16, 32, 64)), strict=True)
    assert list(sent) == sorted(sent, reverse=True)
    for after in losses:
        assert before - after > 0.8 * (before - losses[0]) > 0


def test_members_may_send_different_ones() -> None:
    trained(["int1", "fp32", "int4"])
