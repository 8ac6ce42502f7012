"""A small training to save, break off and resume."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from conftest import run_members
from safetensors.torch import save_file
from training import SMALL_BUCKETS, adamw, flat, plain_loop, sgd, vectors

from stellatrain.run import Run

BEFORE, AFTER = 5, 5
OPTIMIZERS = {"sgd": sgd, "adamw": adamw}


def normed() -> torch.nn.Module:
    torch.manual_seed(5)
    return torch.nn.Sequential(
        torch.nn.Linear(13, 149), torch.nn.BatchNorm1d(149), torch.nn.Tanh(), torch.nn.Linear(149, 5)
    )


def started(run: Run, net: torch.nn.Module, optimizer: str | Callable = "adamw", **options: Any):
    """The distributed optimizer, and this member's batches."""
    make = optimizer if callable(optimizer) else OPTIMIZERS[optimizer]
    options = {"density": 0.05, "staleness": 1, "bucket_mib": SMALL_BUCKETS} | options
    _, distributed = run.distribute(net, make(net), **options, rule="sparse")
    rows = slice(4 * run.rank, 4 * run.rank + 4)
    return distributed, [(x[rows], y[rows]) for x, y in vectors(BEFORE + AFTER, 16)]


def end_of(run: Run, net: torch.nn.Module, optimizer) -> tuple:
    """What must be equal: the consensus, what torch sees, and the buffers. Leaves without finish()."""
    result = optimizer.digest(), flat(net).tolist(), [buffer.tolist() for buffer in net.buffers()]
    run.session.leave()
    return result


def unbroken(run: Run, net: torch.nn.Module, directory: Path | None, **options: Any) -> tuple:
    optimizer, batches = started(run, net, **options)
    plain_loop(net, optimizer, batches[:BEFORE])
    if directory is not None:
        run.save(directory)
    plain_loop(net, optimizer, batches[BEFORE:])
    return end_of(run, net, optimizer)


def resumed(run: Run, net: torch.nn.Module, directory: Path, **options: Any) -> tuple:
    for parameter in net.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer, batches = started(run, net, **options)
    run.load(directory)
    assert optimizer.iteration == BEFORE
    plain_loop(net, optimizer, batches[BEFORE:])
    return end_of(run, net, optimizer)


def file_of(directory: Path, kind: str) -> Path:
    """kind: "model", "consensus", "member-0"; of the checkpoint in `directory`, or latest.json itself."""
    path = directory / "latest.json"
    return path if kind == path.name else directory / f"{kind}-{described(directory)['name']}.safetensors"


def described(directory: Path) -> dict[str, Any]:
    return json.loads((directory / "latest.json").read_text())


def rewrite(path: Path, tensors: dict[str, torch.Tensor]) -> None:
    """As if save() had written these."""
    save_file(tensors, path)
    hashes = described(path.parent)["sha256"]
    hashes[path.name] = hashlib.sha256(path.read_bytes()).hexdigest()
    redescribe(path.parent, {"sha256": hashes})


def redescribe(directory: Path, changes: dict[str, Any]) -> None:
    """latest.json with other values, as if save() had written them."""
    latest = described(directory) | changes
    values = {key: value for key, value in latest.items() if key not in ("format", "sha256_of_the_rest")}
    latest["sha256_of_the_rest"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    (directory / "latest.json").write_text(json.dumps(latest))


def saved(directory: Path, world_size: int = 1) -> None:
    """Leaves a checkpoint of iteration BEFORE."""
    nets = [normed() for _ in range(world_size)]
    run_members(world_size, lambda run: unbroken(run, nets[run.rank], directory, density=0.3))


def iteration_loaded(directory: Path, world_size: int = 1) -> int:
    """Loads the checkpoint; returns where it goes on."""

    def member(run: Run):
        optimizer, batches = started(run, net := nets[run.rank], density=0.3)
        run.load(directory)
        iteration = optimizer.iteration
        plain_loop(net, optimizer, batches[:2])
        run.finish()
        return iteration

    nets = [normed() for _ in range(world_size)]
    (iteration,) = set(run_members(world_size, member))
    return iteration


class Weighed(torch.nn.Module):
    """A criterion with parameters: what is learned here is no part of the model."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.weights = torch.nn.Parameter(torch.linspace(0.5, 1.5, 5, dtype=dtype))
        self.bias = torch.nn.Parameter(torch.zeros(1, dtype=dtype))

    def forward(self, output: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        return ((output - target).square() * self.weights).mean() + self.bias.square().sum()


def both(net: torch.nn.Module, criterion: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW([{"params": net.parameters()}, {"params": criterion.parameters()}], lr=0.01)


def with_criterion(run: Run, parts: tuple, batches: list, directory: Path | None, **options):
    """Trains, and saves or loads in the middle. What must be equal: what torch sees of the criterion too."""
    net, criterion = parts
    _, optimizer = run.distribute(
        net, both(net, criterion), bucket_mib=SMALL_BUCKETS, **options, rule="sparse"
    )

    def train(batches: list) -> list[float]:
        losses = []
        for x, y in batches:
            optimizer.zero_grad()
            loss = criterion(net(x), y)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return losses

    if directory is not None and (directory / "latest.json").exists():
        run.load(directory)
    else:
        train(batches[:BEFORE])
        run.session.all_gather("trained", b"")  # all have looked for latest.json
        if directory is not None:
            run.save(directory)
    losses = train(batches[BEFORE:])
    return losses, [each.tolist() for each in criterion.parameters()], end_of(run, net, optimizer)


SHARED = ["consensus", "latest.json", "model"]


def files_in(directory: Path) -> list[str]:
    """Names; "model" and so on of the files of the checkpoint that latest.json names."""
    ours = f"-{described(directory)['name']}.safetensors" if (directory / "latest.json").exists() else "/"
    return sorted(path.name.removesuffix(ours) for path in directory.iterdir())


def save_after(steps: int, directories: list[Path]) -> int:
    """A new run, with a directory for each member; its digest."""

    def member(run: Run) -> int:
        net = nets[run.rank]
        optimizer, batches = started(run, net)
        plain_loop(net, optimizer, batches[:steps])
        run.save(directories[run.rank])
        digest = optimizer.digest()
        run.finish()
        return digest

    nets = [normed() for _ in directories]
    return run_members(len(directories), member)[0]


def loaded_from(directories: list[Path]) -> list[tuple[int, int]]:
    """Iteration and digest that each member goes on with."""

    def member(run: Run) -> tuple[int, int]:
        optimizer, _ = started(run, nets[run.rank])
        run.load(directories[run.rank])
        result = optimizer.iteration, optimizer.digest()
        run.finish()
        return result

    nets = [normed() for _ in directories]
    return run_members(len(directories), member)
