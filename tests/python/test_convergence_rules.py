"""The benchmark's update rules: what they send, to the byte, and what they promise."""

from __future__ import annotations

import pytest
import torch
from bench.convergence import codes, rules, traffic
from bench.convergence.layout import Layout
from bench.convergence.members import Members
from bench.convergence.recipe import Recipe, learning_rate
from bench.convergence.rules.local import Local, Pull
from bench.convergence.rules.rule import Rule, Setting
from bench.convergence.rules.sparse import index_bytes
from bench.convergence.rules.sparseloco import chosen_in_two_bits
from bench.convergence.rules.streaming_diloco import strided_fragments
from bench.convergence.tasks.synthetic import SyntheticTask
from bench.convergence.tasks.task import streams
from torch import Tensor, nn

MEMBERS = 4
STEPS = 100
PLAIN_SGD = Recipe("sgd", weight_decay=0.0, momentum=0.0)
NET = nn.Sequential(nn.Linear(64, 32))  # 2048 + 32 parameters: 33 blocks of 64, the last one half full
DDP = 2 * 3 / 4 * 4 * 2080  # bytes per member and step


def setting(budget: float | None = None, recipe: Recipe = PLAIN_SGD, net: nn.Module = NET) -> Setting:
    return Setting(Layout(net), MEMBERS, STEPS, recipe, budget)


def start(rule: Rule, dtype: torch.dtype = torch.float32) -> Tensor:
    """Starts `rule` from random weights; returns the members' weights [N, width]."""
    generator = torch.Generator().manual_seed(1)
    row = torch.randn(rule.layout.width, generator=generator, dtype=dtype) * rule.layout.valid
    x = row.expand(rule.setting.members, -1).clone()
    rule.start(x)
    return x


def gradients(rule: Rule, t: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(100 + t)
    shape = rule.setting.members, rule.layout.width
    return torch.randn(shape, generator=generator, dtype=dtype) * rule.layout.valid


def run(rule: Rule, steps: int = STEPS, lr: float = 0.01) -> Tensor:
    x = start(rule)
    for t in range(steps):
        rule.step(t, lr, gradients(rule, t))
    return x


@pytest.mark.parametrize(
    ("spelling", "budget", "expected"),
    [
        ("dense", None, STEPS * DDP),
        ("powersgd:rank=1", None, STEPS * 1.5 * 4 * (32 + 64 + 32)),  # P, Q, and the bias whole
        ("powersgd", 0.001, STEPS * 1.5 * 4 * (32 + 64 + 32)),  # cannot go lower
        ("powersgd:dense_steps=2,rank=1", None, 2 * DDP + 98 * 1.5 * 4 * 128),
        ("local-uncompressed", None, STEPS * 3 * 4 * 2080),
        ("local", 0.26, 3 * 16.5 * STEPS * 65),  # of 1081.6 bytes: half of it in 8 bits
        ("local:bits=1", 0.02, 3 * 924 * 9),  # of 83.2 bytes: 9.24 blocks per step
        ("local:bits=1,part=1", 0.1, STEPS * 3 * 33 * 9),
        ("diloco", 0.02, 2 * DDP),
        ("diloco-bf16", 0.02, 4 * DDP / 2),
        ("streaming-diloco", 0.02, 7 * 3 * 33 * 33),  # a round is 26.2 % of a step of DDP
        ("sparseloco", 0.02, 54 * 3 * (65 * 1.75 + 2 * 20)),  # 64 of 2048 and 1 of 32
        ("sparseloco:h=50", 0.02, 2 * 3 * (2080 * 1.75 + 2 * 20)),
    ],
)
def test_a_run_sends_what_one_counts_by_hand(spelling: str, budget: float | None, expected: float) -> None:
    rule = rules.make(spelling, setting(budget))
    run(rule)
    assert rule.egress == pytest.approx(expected)
    assert budget in (None, 0.001) or rule.egress <= budget * STEPS * DDP


@pytest.mark.parametrize(("spelling", "blocks", "block"), [("sparse", 6, 64), ("sparse-int4", 44, 9)])
def test_sparse_sends_values_and_an_index(spelling: str, blocks: int, block: int) -> None:
    rule = rules.make(spelling, setting(0.1))  # of 416 bytes
    run(rule, steps=5)
    index = rule.egress / 5 / 3 - blocks * block
    assert index == min(blocks, 17)  # a byte per gap, or the bit map of 130 blocks


def test_an_index_costs_the_cheaper_of_gaps_and_bit_map() -> None:
    assert index_bytes(torch.tensor([0, 1, 200]), 4000) == 4  # gaps 0, 0, 198
    assert index_bytes(torch.arange(40), 80) == 10
    assert index_bytes(torch.arange(80), 80) == 0


def test_traffic_of_the_collectives() -> None:
    assert traffic.ring_all_reduce(4, 100) == 150
    assert traffic.all_gather(4, 100) == 300
    message = traffic.all_gather_message(0.02, 4, 2080)
    assert traffic.all_gather(4, message) == pytest.approx(0.02 * traffic.of_ddp(4, 2080))


@pytest.mark.parametrize("spelling", rules.RULES)
def test_every_rule_is_deterministic_and_leaves_padding_alone(spelling: str) -> None:
    recipe = Recipe("adamw", weight_decay=0.1, clip=1.0)
    budget = None if spelling in rules.WITHOUT_BUDGET else 0.05
    first, second = (rules.make(spelling, setting(budget, recipe)) for _ in range(2))
    x, again = run(first), run(second)
    assert torch.equal(x, again) and torch.equal(first.consensus(), second.consensus())
    assert not x[:, ~first.layout.valid].any() and not first.consensus()[~first.layout.valid].any()
    assert x.isfinite().all()


@pytest.mark.parametrize("spelling", ["dense", "powersgd", "sparse", "diloco", "sparseloco"])
def test_members_hold_the_consensus_after_a_synchronisation(spelling: str) -> None:
    rule = rules.make(spelling, setting(0.05))
    x = run(rule)
    assert torch.equal(x, rule.consensus().expand_as(x))


def test_dense_alone_is_torchs_optimizer() -> None:
    task = SyntheticTask()
    recipe = Recipe("adamw", weight_decay=0.1, clip=0.5)
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(20, 30), nn.Tanh(), nn.Linear(30, 4))
    members = Members(net, 1)
    rule = rules.make("dense", Setting(members.layout, 1, 10, recipe))
    rule.start(members.weights)
    adamw = {"lr": 0.0, "betas": recipe.betas, "eps": recipe.eps, "weight_decay": 0.1}
    optimizer = torch.optim.AdamW(net.parameters(), **adamw, fused=True)
    source, other = streams(0, 1) + streams(0, 1)
    for t in range(10):
        lr = learning_rate(t, 10, 0.02)
        members.compute(task, [task.batch(source)])
        rule.step(t, lr, members.gradients)
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] = lr
        task.loss(net, task.batch(other)).backward()
        nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
    trained = members.consensus(rule.consensus())
    for ours, theirs in zip(trained.parameters(), net.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)
    assert rule.egress == 0


def test_uncompressed_local_first_with_plain_sgd_is_averaging() -> None:
    rule = rules.make("local-uncompressed", setting())
    x = start(rule)
    expected = x[0].clone()
    for t in range(5):
        expected -= 0.1 * gradients(rule, t).mean(0)
        rule.step(t, 0.1, gradients(rule, t))
        torch.testing.assert_close(rule.consensus(), expected)
        torch.testing.assert_close(x, expected.expand_as(x))


class Told(Local):
    """Remembers what each member has told the others, [N, width]."""

    def _merge(self, round_) -> None:
        self.told[:, round_.fragment] += round_.codes
        super()._merge(round_)


@pytest.mark.parametrize("bits", [1, 2, 4, 8, 32])
@pytest.mark.parametrize("delay", [0, 1, 3])
def test_local_first_loses_nothing(bits: int, delay: int) -> None:
    rule = Told(setting(0.1), bits=bits, delay=delay)
    x = start(rule, torch.float64)
    rule.told = torch.zeros_like(x)
    learned = torch.zeros_like(x)
    begin = rule.consensus().clone()
    for t in range(30):
        g = gradients(rule, t, torch.float64)
        learned -= 0.01 * g
        rule.step(t, 0.01, g)
    torch.testing.assert_close(rule.told + x - rule.consensus(), learned, rtol=0, atol=1e-12)
    torch.testing.assert_close(rule.consensus() - begin, rule.told.mean(0), rtol=0, atol=1e-12)
    assert rule.told.any()


@pytest.mark.parametrize("pull", [None, 0, 0.5])
def test_local_first_loses_nothing_of_what_signs_leave_out_and_what_it_hides(pull: float | None) -> None:
    rule = Told(setting(0.02), bits=0, share=1 / 16, pull=pull, part=1)
    x = start(rule, torch.float64)
    rule.told = torch.zeros_like(x)
    learned = torch.zeros_like(x)
    for t in range(30):
        g = gradients(rule, t, torch.float64)
        learned -= 0.01 * g
        rule.step(t, 0.01, g)
    held = x - rule.consensus() + rule._hidden
    torch.testing.assert_close(rule.told + held, learned, rtol=0, atol=1e-12)
    assert bool(rule._hidden.any()) == (pull != 0)
    assert 0.9 < rule.egress / (0.02 * DDP * 30) < 1.1


def test_local_first_goes_round_all_blocks() -> None:
    rule = Local(setting(0.02), bits=1)
    x = start(rule)
    begin = rule.consensus().clone()
    for t in range(5):  # 9.24 blocks a step: 33 within four, and the fifth's are on their way
        rule.step(t, 0.01, gradients(rule, t))
    changed = (rule.consensus() != begin).view(-1, 64).any(1)
    assert changed.all() and not torch.equal(x, rule.consensus().expand_as(x))


def test_sparse_sees_updates_one_step_late() -> None:
    rule = rules.make("sparse", setting(0.1))
    x = start(rule)
    begin = x.clone()
    rule.step(0, 0.1, gradients(rule, 0))
    assert torch.equal(x, begin)
    rule.step(1, 0.1, gradients(rule, 1))
    assert not torch.equal(x, begin)


def test_sparse_with_everything_sent_is_dense() -> None:
    recipe = Recipe("adamw", weight_decay=0.1)
    sparse, dense = (rules.make(name, setting(None, recipe)) for name in ("sparse:staleness=0", "dense"))
    run(sparse, steps=10)
    run(dense, steps=10)
    torch.testing.assert_close(sparse.consensus(), dense.consensus())


def test_diloco_steps_on_the_mean_difference() -> None:
    rule = rules.make("diloco", setting(0.02))  # two rounds: after steps 49 and 99
    x = start(rule)
    begin = x[0].clone()
    total = torch.zeros_like(begin)
    for t in range(50):
        total += 0.01 * gradients(rule, t).mean(0)
        rule.step(t, 0.01, gradients(rule, t))
    torch.testing.assert_close(rule.consensus(), begin - 0.7 * (1 + 0.9) * total)


def test_fragments_of_streaming_diloco_are_layers_by_turns() -> None:
    net = nn.Sequential(*(nn.Linear(8, 8, bias=False) for _ in range(5)))
    fragments = strided_fragments(Layout(net), 2)
    assert [fragment[::64].tolist() for fragment in fragments] == [[0, 128, 256], [64, 192]]


def test_sparseloco_sends_the_largest_of_a_chunk() -> None:
    errors = torch.zeros(1, 5000)
    errors[0, [3, 70, 4999]] = torch.tensor([2.0, -2.0, 2.0])
    sent = chosen_in_two_bits(errors, 2 / 4096)
    torch.testing.assert_close(sent, errors)


def test_codes_are_those_of_the_encoding_page() -> None:
    valid = torch.ones(1, 16, dtype=torch.bool)
    x = torch.tensor([7, -3, 2, -1, 1, -1, 0.5, -0.5] + [0.0] * 8).view(1, 1, 16)
    expected = torch.tensor([7, -3, 2, -1, 1, -1] + [0.0] * 10).view(1, 1, 16)
    assert torch.equal(codes.block_code(x, valid, 4), expected)
    signs = codes.block_code(torch.tensor([[[2.0, -2.0, 6.0, -6.0]]]), valid[:, :4], 1)
    assert torch.equal(signs, torch.tensor([[[4.0, -4.0, 4.0, -4.0]]]))
    steps = codes.block_code(torch.tensor([[[0.1, -5.0, 2.0, 0.0]]]) / 7.1 * 6.4, valid[:, :4], 2)
    assert torch.equal(steps, torch.tensor([[[1.0, -3.0, 1.0, 1.0]]]))


def test_a_short_block_divides_by_its_own_length() -> None:
    valid = torch.tensor([[True, True, False, False]])
    assert codes.block_code(torch.tensor([[[1.0, -1.0, 0.0, 0.0]]]), valid, 1).tolist() == [[[1, -1, 0, 0]]]


def test_e3m0_has_eight_magnitudes() -> None:
    x = torch.tensor([[[-1.0, 0.8, 0.7, 0.26, 1 / 64, 1 / 100, 1 / 200, 0.0]]])
    decoded = codes.e3m0(x, torch.ones(1, 8, dtype=torch.bool))
    assert decoded.tolist() == [[[-1, 1, 0.5, 0.25, 1 / 64, 1 / 64, 0, 0]]]


def test_sparse_signs_are_those_of_the_largest_in_each_chunk() -> None:
    x = torch.tensor([[0.0, 1.0, -3.0, 0.5, 0.0, 0.0, 7.0, -0.1]])
    decoded, size = codes.sparse_signs(x, share=0.5, chunk=4)
    # 2 of each 4: 1 and -3, whose mean is 2; 7 and -0.1, mean 3.55, as a scale 2^(15/8).
    scale = 2 ** (15 / 8)
    assert torch.allclose(decoded, torch.tensor([[0.0, 2, -2, 0, 0, 0, scale, -scale]]))
    # Two scales, four signs, gaps of 1 0 and 2 0 as unary numbers: 16 + 4 + (2 + 1) + (3 + 1) bits.
    assert codes.rice_bits(0.5) == 0
    assert size.tolist() == [4]


@pytest.mark.parametrize("share", [1 / 64, 1 / 16, 1 / 4])
def test_sparse_signs_take_about_what_is_planned(share: float) -> None:
    x = torch.randn(2, 1 << 16, generator=torch.Generator().manual_seed(1))
    _, sizes = codes.sparse_signs(x, share, chunk=1024)
    assert (8 * sizes / x.shape[1]).tolist() == pytest.approx(
        [codes.sparse_signs_bits(share, 1024)] * 2, rel=0.02
    )


def test_pull_falls_where_what_is_told_goes_back_and_shows_what_was_hidden() -> None:
    onwards, back = Pull(), Pull()
    for _ in range(100):
        onwards.told(1000, 600)
        back.told(1000, 300)
    assert (onwards.hidden, onwards.shown) == (0.5, 0)
    assert back.hidden == 0.001 and back.shown > 0.99
    few = Pull()
    few.told(255, 0)
    assert few.hidden == 0.5
