"""Models of every kind train: frozen, unused, tied and odd parameters, embeddings, buffers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import outcomes_of_members, run_members
from training import EXACT, SPARSE, Batch, Training, adamw, flat, mlp, plain_loop, sgd, vectors

from stellatrain import Error
from stellatrain.run import Run


def test_frozen_parameters_stay_and_start_as_member_0s() -> None:
    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **EXACT, rule="sparse")
        plain_loop(net, optimizer, vectors(5, 4))
        run.finish()
        return net

    nets = [mlp(), mlp()]
    for net in nets:
        net[0].weight.requires_grad_(False)
    torch.nn.init.zeros_(nets[1][0].weight)
    for net in run_members(2, member):
        assert torch.equal(net[0].weight, mlp()[0].weight)
        assert not torch.equal(net[2].weight, mlp()[2].weight)


def test_frozen_parameters_change_nothing_for_the_others() -> None:
    def model():
        net = mlp()
        net[0].weight.requires_grad_(False)
        return net

    Training(model=model).check()


def test_a_parameter_unfrozen_after_distribute_is_an_error_that_says_so() -> None:
    def member(run: Run):
        net = mlp()
        net[0].weight.requires_grad_(False)
        _, optimizer = run.distribute(net, adamw(net), rule="sparse")
        net[0].weight.requires_grad_(True)
        plain_loop(net, optimizer, vectors(1, 4))

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert "unfreeze parameters before distribute()" in str(failure)


def test_a_model_whose_parameters_are_all_frozen_is_an_error_that_says_so() -> None:
    def member(run: Run):
        net = mlp().requires_grad_(False)
        run.distribute(net, adamw(net), rule="sparse")

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "invalid_argument"
        assert "frozen" in str(failure)


class TwoHeads(torch.nn.Module):
    """Batches whose first feature is positive go through the first head."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.body = torch.nn.Linear(13, 20)
        self.heads = torch.nn.ModuleList([torch.nn.Linear(20, 5), torch.nn.Linear(20, 5)])
        self.never = torch.nn.Linear(3, 3)
        self.choice = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.heads[self.choice](torch.tanh(self.body(x)))


@pytest.mark.parametrize("optimizer", [adamw, sgd])
def test_parameters_that_nobody_uses_in_a_step_stay_as_in_torch(optimizer) -> None:
    def train(net, optimizer, batches):
        for number, batch in enumerate(batches):
            net.choice = number % 2
            plain_loop(net, optimizer, [batch])

    training = Training(train, model=TwoHeads, optimizer=optimizer)
    training.check()
    for net in training.on_members(**SPARSE):
        assert torch.equal(net.never.weight, TwoHeads().never.weight)


def test_a_parameter_that_one_member_does_not_use_gets_the_others_gradient() -> None:
    """Union batch: the rows of member r go through head r."""

    def member(run: Run):
        net = nets[run.rank]
        net.choice = run.rank
        _, optimizer = run.distribute(net, adamw(net), **EXACT, rule="sparse")
        plain_loop(net, optimizer, training.share(run.rank))
        run.finish()
        return flat(net)

    training = Training()
    nets = [TwoHeads(), TwoHeads()]
    results = run_members(2, member)
    net = TwoHeads()
    reference = adamw(net)
    for first, second in zip(training.share(0), training.share(1), strict=True):
        reference.zero_grad()
        for net.choice, (x, y) in enumerate([first, second]):
            (torch.nn.functional.mse_loss(net(x), y) / 2).backward()
        reference.step()
    for weights in results:
        assert torch.allclose(weights, flat(net), atol=1e-5)


def test_tied_parameters_are_one_parameter() -> None:
    class Tied(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(3)
            self.inner = torch.nn.Linear(13, 13)
            self.again = torch.nn.Linear(13, 13)
            self.again.weight = self.inner.weight
            self.out = torch.nn.Linear(13, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.out(torch.tanh(self.again(torch.tanh(self.inner(x)))))

    training = Training(model=Tied)
    training.check()
    net = training.on_members(**SPARSE)[0]
    assert net.again.weight is net.inner.weight


class Words(torch.nn.Module):
    def __init__(self, sparse: bool = False) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.table = torch.nn.Embedding(200, 16, sparse=sparse)
        self.out = torch.nn.Linear(16, 5)

    def forward(self, words: torch.Tensor) -> torch.Tensor:
        return self.out(self.table(words).mean(1))


def sentences(steps: int, rows: int) -> list[Batch]:
    """Words 0 to 49 only."""
    generator = torch.Generator().manual_seed(8)
    return [
        (torch.randint(50, (rows, 3), generator=generator), torch.randn(rows, 5, generator=generator))
        for _ in range(steps)
    ]


@pytest.mark.parametrize("sparse", [False, True], ids=["dense gradients", "sparse gradients"])
def test_embeddings_train(sparse: bool) -> None:
    training = Training(
        model=lambda: Words(sparse),
        optimizer=lambda net: torch.optim.SGD(net.parameters(), lr=0.5),
        batches=sentences,
    )
    training.check()


@pytest.mark.parametrize("sparse", [False, True], ids=["dense gradients", "sparse gradients"])
def test_of_an_embedding_only_rows_that_were_touched_are_sent(sparse: bool) -> None:
    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(
            net, torch.optim.Adam(net.parameters(), lr=0.01), density=0.3, staleness=0, rule="sparse"
        )
        plain_loop(net, optimizer, sentences(20, 8))
        counts = optimizer.state_dict()["state"][0]["block_steps"]  # a row is a block
        sent = optimizer.stats()["blocks_sent"]
        run.finish()
        return net, counts, sent

    nets = [Words(sparse), Words(sparse)]
    for net, counts, sent in run_members(2, member):
        assert int(counts[:50].max()) > 0
        assert int(counts[50:].max()) == 0
        assert torch.equal(net.table.weight[50:], Words().table.weight[50:])
        assert 0 < sent < 20 * (200 + 6)


def normed() -> torch.nn.Module:
    torch.manual_seed(5)
    return torch.nn.Sequential(torch.nn.Linear(13, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 5))


def test_batch_norm_buffers_start_as_member_0s_are_local_in_between_and_averaged_at_the_end() -> None:
    def member(run: Run):
        net = nets[run.rank]
        norm = net[1]
        _, optimizer = run.distribute(net, adamw(net), **EXACT, rule="sparse")
        start = norm.running_mean.clone(), norm.num_batches_tracked.clone()
        steps = 3
        plain_loop(net, optimizer, training.share(run.rank)[:steps])
        between = norm.running_mean.clone()
        run.finish()
        return start, between, norm.running_mean.clone(), norm.num_batches_tracked.clone()

    training = Training()
    nets = [normed(), normed()]
    nets[0][1].running_mean.fill_(0.25)
    nets[0][1].num_batches_tracked.fill_(40)
    nets[1][1].running_mean.fill_(99)
    (start_0, mean_0, end_0, count_0), (start_1, mean_1, end_1, count_1) = run_members(2, member)
    assert torch.equal(start_0[0], start_1[0]) and start_1[0][0] == 0.25
    assert start_1[1] == 40
    assert not torch.equal(mean_0, mean_1)
    assert torch.equal(end_0, end_1)
    assert torch.allclose(end_0, (mean_0 + mean_1) / 2)
    assert count_0 == count_1 == 43


def test_what_a_batch_with_nan_spoilt_on_one_member_is_left_out_of_the_average_with_a_warning() -> None:
    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **EXACT, rule="sparse")
        plain_loop(net, optimizer, vectors(1, 4))
        if run.rank == 1:
            net[1].running_mean[3] = float("nan")
            net[1].running_var[4] = float("inf")
        net.mask[1 + run.rank] = -1
        between = net[1].running_mean.clone(), net[1].running_var.clone()
        run.finish()
        return between, net[1].running_mean.clone(), net[1].running_var.clone(), net.mask.tolist()

    nets = [normed() for _ in range(3)]
    for net in nets:  # as attention has them
        net.register_buffer("mask", torch.tensor([float("-inf"), 0.0, 0.0, 0.0]))
    with pytest.warns(UserWarning) as warned:
        results = run_members(3, member)
    means = torch.stack([between[0] for between, *_ in results]).double()
    means[1, 3] = (means[0, 3] + means[2, 3]) / 2
    for _, mean, var, mask in results:
        assert torch.allclose(mean, means.mean(0).float())
        assert var.isfinite().all()
        assert mask == [float("-inf"), *[pytest.approx(-1 / 3)] * 3]
        assert torch.equal(mean, results[0][1]) and torch.equal(var, results[0][2])
    sentences = {str(warning.message) for warning in warned}
    assert any(
        "the buffer '1.running_mean' holds NaN or infinity on member 1 (" in text for text in sentences
    )
    assert not any("'mask'" in text for text in sentences)


def test_integer_and_bool_buffers_end_as_member_0s() -> None:
    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **EXACT, rule="sparse")
        net.count += run.rank + 1
        net.mask[run.rank] = True
        plain_loop(net, optimizer, vectors(1, 4))
        run.finish()
        return net.count.tolist(), net.mask.tolist()

    nets = [mlp(), mlp()]
    for net in nets:
        net.register_buffer("count", torch.zeros((), dtype=torch.int64))
        net.register_buffer("mask", torch.zeros(2, dtype=torch.bool))
        net.register_buffer("empty", torch.zeros(0))
    assert run_members(2, member) == [(1, [True, False])] * 2


@pytest.mark.parametrize("call", ["save", "consensus", "finish"])
def test_buffers_that_differ_by_now_are_named_and_the_run_goes_on(call: str, tmp_path: Path) -> None:
    """16 bits of two kinds are as many bytes, and would be averaged."""

    def average(run: Run) -> None:
        if call == "save":
            run.save(tmp_path)
        elif call == "finish":
            run.finish()
        else:
            with run.consensus():
                pass

    def member(run: Run) -> torch.Tensor:
        net = torch.nn.Sequential(torch.nn.Linear(4, 9), torch.nn.BatchNorm1d(9))
        run.distribute(net, adamw(net), rule="sparse")
        net[1].running_mean.fill_(run.rank)
        for casts in ([torch.float16, torch.bfloat16], [torch.float32, torch.int32]):
            net[1].running_mean = net[1].running_mean.to(casts[run.rank])
            with pytest.raises(Error) as failure:
                average(run)
            assert failure.value.code == "mismatch"
            here, there = (str(cast).removeprefix("torch.") for cast in casts[:: 1 - 2 * run.rank])
            assert f"buffer 0 is '1.running_mean' (9,) {here} here, " in str(failure.value)
            assert f"'1.running_mean' (9,) {there} on member {1 - run.rank} (" in str(failure.value)
        net[1].running_mean = net[1].running_mean.float()
        run.finish()
        return net[1].running_mean

    for mean in run_members(2, member):
        assert torch.equal(mean, torch.full((9,), 0.5))


def test_a_buffer_larger_than_one_control_message_is_averaged() -> None:
    def member(run: Run):
        net = mlp()
        net.register_buffer("large", torch.full((5_000_000,), 1.0))
        _, optimizer = run.distribute(net, adamw(net), **EXACT, rule="sparse")
        net.large += 2 * run.rank
        plain_loop(net, optimizer, vectors(1, 4))
        run.finish()
        return net.large

    for large in run_members(2, member):
        assert bool((large == 2).all())


def test_channels_last_parameters_train() -> None:
    def model():
        torch.manual_seed(6)
        net = torch.nn.Sequential(
            torch.nn.Conv2d(3, 7, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(28, 5)
        )
        return net.to(memory_format=torch.channels_last)

    def images(steps: int, rows: int) -> list[Batch]:
        generator = torch.Generator().manual_seed(9)
        batches = []
        for _ in range(steps):
            x = torch.randn(rows, 3, 4, 4, generator=generator).to(memory_format=torch.channels_last)
            batches.append((x, torch.randn(rows, 5, generator=generator)))
        return batches

    assert not model()[0].weight.is_contiguous()
    training = Training(model=model, batches=images)
    training.check()
    assert training.on_members(**SPARSE)[0][0].weight.is_contiguous(memory_format=torch.channels_last)


def test_transposed_parameters_train() -> None:
    def model():
        net = mlp()
        net[0].weight = torch.nn.Parameter(net[0].weight.detach().t().contiguous().t())
        return net

    assert not model()[0].weight.is_contiguous()
    Training(model=model).check()


def test_parameters_of_size_zero_and_one_are_fine() -> None:
    class Odd(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = mlp()
            self.empty = torch.nn.Parameter(torch.zeros(0, 5))
            self.scale = torch.nn.Parameter(torch.ones(()))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) * self.scale + self.empty.sum(0)

    Training(model=Odd).check()


def test_double_parameters_follow_fp32_weights() -> None:
    def train(net, optimizer, batches):
        plain_loop(net, optimizer, [(x.double(), y) for x, y in batches])

    Training(train, model=lambda: mlp().double()).check()


def test_complex_parameters_are_refused_by_their_type() -> None:
    def member(run: Run):
        net = torch.nn.ParameterList([torch.nn.Parameter(torch.zeros(3, dtype=torch.complex64))])
        run.distribute(net, torch.optim.SGD(net.parameters(), lr=0.1), rule="sparse")

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert "torch.complex64" in str(failure)


@pytest.mark.parametrize(
    ("model", "sentence"),
    [
        ("net", "model is 'net'; it must be a torch.nn.Module"),
        (torch.nn.Linear(2, 2, device="meta"), "'weight' is on the device 'meta' and has no values"),
        (torch.nn.LazyLinear(2), "'weight' has no shape yet: the model is lazy"),
    ],
)
def test_a_model_without_values_is_refused(model: Any, sentence: str) -> None:
    def member(run: Run):
        run.distribute(model, adamw(mlp()), rule="sparse")

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "invalid_argument"
    assert sentence in str(failure)
