"""Parameters and gradients in forms of torch's whose memory is not what their values are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import run_members
from training import EXACT, SMALL_BUCKETS, loss_of, mlp, sgd, vectors

from stellatrain import Error
from stellatrain.loader import DataLoader
from stellatrain.run import Run


def trained(gradient: Callable[[], torch.Tensor], run: Run | None) -> list[float]:
    """Two steps with weight decay; on a member of a run, or by plain torch."""
    net = torch.nn.Linear(3, 1, bias=False)
    torch.nn.init.ones_(net.weight)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, weight_decay=0.5)
    if run is not None:
        optimizer = run.distribute(net, optimizer, **EXACT, rule="sparse")[1]
    for _ in range(2):
        net.weight.grad = gradient()
        optimizer.step()
    if run is not None:
        run.session.leave()
    return net.weight.flatten().tolist()


@pytest.mark.parametrize(
    "gradient",
    [
        lambda: torch._neg_view(torch.tensor([[1.0, 2.0, 3.0]])),
        lambda: torch.complex(torch.zeros(1, 3), torch.tensor([[1.0, 2.0, 3.0]])).conj().imag,
        lambda: torch._efficientzerotensor((1, 3)),
        lambda: torch.tensor([1.0]).expand(1, 3),
    ],
    ids=["negated when it is read", "imaginary part of a conjugate", "known to be zeros", "expanded"],
)
def test_gradients_count_as_what_torch_reads_in_them(gradient: Callable[[], torch.Tensor]) -> None:
    expected = trained(gradient, None)
    for weights in run_members(2, lambda run: trained(gradient, run)):
        assert weights == pytest.approx(expected, abs=1e-6)


def test_the_gradient_through_a_conjugate_has_the_sign_that_torch_gives_it() -> None:
    def member(run: Run) -> float:
        net = torch.nn.ParameterDict({"re": torch.ones(1), "im": torch.ones(1)})
        optimizer = run.distribute(net, torch.optim.SGD(net.parameters(), lr=0.1), **EXACT, rule="sparse")[1]
        (torch.complex(net["re"], net["im"]).conj() * (1 + 1j)).imag.sum().backward()
        optimizer.step()
        run.session.leave()
        return net["im"].item()

    # (re - i im)(1 + i) has the imaginary part re - im.
    assert run_members(2, member) == [pytest.approx(1.1), pytest.approx(1.1)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["in place", "by a host copy"])
@pytest.mark.parametrize("shape", [(1,), (2, 5, 149)], ids=["smaller", "larger"])
def test_a_parameter_of_another_size_than_at_distribute_is_refused_by_name(
    dtype: torch.dtype, shape: tuple[int, ...]
) -> None:
    def member(run: Run) -> str:
        net = mlp().to(dtype)
        optimizer = run.distribute(net, sgd(net), **EXACT, rule="sparse")[1]
        inputs, targets = vectors(1, 4)[0]
        loss_of(net, (inputs.to(dtype), targets)).backward()
        net[2].weight.data = torch.zeros(shape, dtype=dtype)
        with pytest.raises(Error) as caught:
            optimizer.step()
        assert not net[2].weight.any()
        run.close()
        return str(caught.value)

    (sentence,) = run_members(1, member)
    assert "'2.weight' has" in sentence
    assert "values now, at distribute() it had 745" in sentence
    assert "give parameters their shape before distribute()" in sentence


def test_under_the_local_rule_such_a_parameter_is_refused_too_and_not_written() -> None:
    def member(run: Run) -> str:
        net = mlp()
        net[2].weight.data = net[2].weight.data.t().contiguous().t()  # needs a host copy
        run.distribute(net, optimizer := sgd(net), rule="local")
        loss_of(net, vectors(1, 4)[0]).backward()
        net[2].weight.data = torch.zeros(2, 5, 149)
        net[2].weight.grad = None
        with pytest.raises(Error) as caught:
            optimizer.step()
        assert not net[2].weight.any()
        run.close()
        return str(caught.value)

    (sentence,) = run_members(1, member)
    assert "'2.weight' has 1490 values now, at distribute() it had 745" in sentence


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["in place", "by a host copy"])
def test_a_parameter_may_be_given_another_shape_of_the_same_size(dtype: torch.dtype) -> None:
    def member(run: Run) -> bool:
        net = mlp().to(dtype)
        optimizer = run.distribute(net, sgd(net), **EXACT, rule="sparse")[1]
        weight = net[2].weight
        weight.data = weight.data.reshape(149, 5)
        before = weight.detach().clone()
        weight.grad = torch.ones_like(weight)
        optimizer.step()
        run.session.leave()
        return torch.allclose(weight, before - 0.05, atol=0.002)

    assert run_members(2, member) == [True, True]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["in place", "by a host copy"])
def test_losses_that_were_computed_before_a_step_may_go_backward_after_it(dtype: torch.dtype) -> None:
    """Of parts of the model that the step did not change, as in torch; docs/torch.md says what differs."""

    def member(run: Run) -> bool:
        net = torch.nn.ModuleList([mlp(), mlp()]).to(dtype)
        optimizer = run.distribute(net, sgd(net), **EXACT, rule="sparse")[1]
        inputs, targets = vectors(1, 4)[0]
        for loss in [loss_of(part, (inputs.to(dtype), targets)) for part in net]:
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        run.session.leave()
        return all(torch.equal(a, b) for a, b in zip(*(part.parameters() for part in net), strict=True))

    assert run_members(2, member) == [True, True]


def test_what_the_script_has_as_default_device_changes_nothing_on_the_host(tmp_path: Path) -> None:
    """Scripts call torch.set_default_device("cuda"); "meta" tensors hold nothing, so that any use fails."""

    def member(run: Run) -> list[float]:
        net = mlp().to(torch.bfloat16)  # needs host copies
        optimizer = run.distribute(
            net, torch.optim.AdamW(net.parameters(), amsgrad=True), **EXACT, rule="sparse"
        )[1]
        for inputs, targets in vectors(2, 4):
            optimizer.zero_grad()
            loss_of(net, (inputs.to(torch.bfloat16), targets)).backward()
            with torch.device("meta"):
                optimizer.step()
        with torch.device("meta"):
            loader = DataLoader(list(range(10)), 5, shuffle=True, training=False, run=run)
            assert [len(batch) for batch in loader.batch_sampler] == [5]
            run.save(tmp_path)
            optimizer.load_state_dict(optimizer.state_dict())
            run.load(tmp_path)
        run.session.leave()
        return [parameter.float().sum().item() for parameter in net.parameters()]

    first, second = run_members(2, member)
    assert first == second


def test_momentum_that_only_a_part_of_a_tensor_has_is_made_whole_by_load_state_dict() -> None:
    """A tensor in two buckets, of which only one has made a step since momentum was switched on."""

    def member(run: Run) -> int:
        net = torch.nn.Linear(64, 32, bias=False)  # 8 KiB: two buckets
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        optimizer = run.distribute(
            net, optimizer, density=0.05, staleness=0, bucket_mib=SMALL_BUCKETS, rule="sparse"
        )[1]
        optimizer.param_groups[0]["momentum"] = 0.9
        net.weight.grad = torch.zeros_like(net.weight)
        net.weight.grad[0] = 1
        optimizer.step()
        state = optimizer.state_dict()
        state["state"][0]["momentum_buffer"] = torch.ones_like(net.weight)
        optimizer.load_state_dict(state)
        loaded = optimizer.state_dict()["state"][0]["momentum_buffer"]
        run.session.leave()
        return int((loaded == 1).sum())

    assert run_members(1, member) == [64 * 32]
