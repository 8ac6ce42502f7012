"""What is sent of real gradients, against exact block top-k."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from conftest import run_members

from stellatrain.optimizer_state import BLOCK

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "examples/gpt"))


def language_model() -> torch.nn.Module:
    """A small GPT with real gradients: its own source code is the text."""
    import model as gpt

    torch.manual_seed(0)
    net = gpt.GPT(64, width=64, layers=2, heads=4)
    text = torch.frombuffer(bytearray(Path(gpt.__file__).read_bytes()), dtype=torch.uint8).long()
    windows = text[: 8 * 65].view(8, 65)
    net(windows[:, :-1], windows[:, 1:]).backward()
    return net


def convolutional_net() -> torch.nn.Module:
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(1, 16, 3), torch.nn.BatchNorm2d(16), torch.nn.ReLU(), torch.nn.Conv2d(16, 64, 3)
    )
    x = torch.randn(16, 1, 12, 12)
    net(x).square().mean().backward()
    return net


def blocks_of(tensor: torch.Tensor) -> torch.Tensor:
    """[blocks, BLOCK], the end padded with zeros."""
    flat = tensor.detach().reshape(-1)
    return torch.nn.functional.pad(flat, (0, -flat.numel() % BLOCK)).view(-1, BLOCK)


@pytest.mark.parametrize("selector", ["blocks", "threshold"])
@pytest.mark.parametrize("make", [language_model, convolutional_net])
@pytest.mark.parametrize("density", [0.01, 0.1])
def test_selected_energy_of_real_gradients_is_that_of_exact_block_top_k(make, selector, density) -> None:
    def member(run):
        net = make()
        gradients = torch.cat([blocks_of(p.grad) for p in net.parameters()])
        optimizer = torch.optim.SGD(net.parameters(), lr=0.0)
        _, optimizer = run.distribute(
            net, optimizer, density=density, selector=selector, bucket_mib=32, rule="sparse"
        )
        optimizer.step()
        left = {}
        for name, index, _, _, _, array in optimizer.engine.state():
            if name == "residual":
                left[index] = blocks_of(torch.from_numpy(array).clone())
        residual = torch.cat([left[index] for index in sorted(left)])
        run.finish()
        return gradients, residual

    gradients, residual = run_members(1, member)[0]
    sent = gradients - residual
    chosen = int((sent.abs().sum(1) > 0).sum())
    budget = max(1, round(density * len(gradients)))
    assert 0.9 * budget - 1 <= chosen <= budget
    # By the paper's score, and by energy itself.
    for score in (gradients.abs().sum(1), gradients.square().sum(1)):
        best = score.topk(chosen).indices
        assert sent.square().sum() >= 0.95 * gradients[best].square().sum()
