"""Checkpoints of the formats before this one load as they did."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from checkpointing import AFTER, BEFORE, Weighed, normed, resumed, started, unbroken, with_criterion
from conftest import outcomes_of_members, run_members
from safetensors.torch import load_file, save_file
from training import mlp, vectors

from stellatrain import Error
from stellatrain.run import Run


def rewritten(directory: Path, written: int, world_size: int, extra: dict) -> None:
    """Makes files of an older format of the checkpoint in `directory`."""
    path = directory / "latest.json"
    latest = json.loads(path.read_text())
    del latest["saved"]
    path.write_text(json.dumps(latest | {"format": written, "extra": extra}))
    for rank in range(world_size):
        member = directory / f"member-{rank}-{BEFORE}.safetensors"
        tensors = load_file(member)
        del tensors["extra"]
        save_file(tensors, member)
    consensus = directory / f"consensus-{BEFORE}.safetensors"
    kept = {key: value for key, value in load_file(consensus).items() if not key.startswith("parameter.")}
    save_file(kept, consensus)


def with_hidden_buffer() -> torch.nn.Module:
    net = normed()
    net.register_buffer("hidden", torch.ones(3), persistent=False)
    return net


@pytest.mark.parametrize("written", [2, 3])
def test_a_checkpoint_of_an_older_format_resumes_exactly(tmp_path: Path, written: int) -> None:
    def members(body: Callable) -> list[tuple]:
        nets = [with_hidden_buffer(), with_hidden_buffer()]
        return run_members(2, lambda run: body(run, nets[run.rank], tmp_path))

    expected = members(unbroken)
    rewritten(tmp_path, written, 2, {})
    model = tmp_path / f"model-{BEFORE}.safetensors"
    save_file(load_file(model) | {"hidden": torch.ones(3)}, model)  # which was in it
    assert members(resumed) == expected


@pytest.mark.parametrize("written", [2, 3])
def test_parameters_beside_the_model_come_from_the_weights_of_the_engine(
    tmp_path: Path, written: int
) -> None:
    """Which is exact without staleness."""

    def members() -> list:
        parts = [(mlp(), Weighed(torch.float32)) for _ in range(2)]
        for _, criterion in parts:
            torch.nn.init.constant_(criterion.weights, scale)
        return run_members(
            2, lambda run: with_criterion(run, parts[run.rank], batches, tmp_path, staleness=0, density=0.3)
        )

    batches = vectors(BEFORE + AFTER, 4)
    scale = 1.0
    expected = members()
    rewritten(tmp_path, written, 2, {})
    scale = 3.0
    assert members() == expected


def load_extra(run: Run, net: torch.nn.Module, directory: Path) -> dict:
    optimizer, _ = started(run, net)
    extra = run.load(directory)
    assert optimizer.iteration == BEFORE
    run.finish()
    return extra


@pytest.mark.parametrize(
    ("written", "extra", "expected"),
    [
        (2, {"a": [1, {"$stella": 5}]}, {"a": [1, {"$stella": 5}]}),  # plain JSON
        (3, {"a": {"$stella": ["tuple", [1, 2]]}}, {"a": (1, 2)}),
        (3, {"a": "b" * 20_000_000}, {"a": "b" * 20_000_000}),
    ],
    ids=["2", "3", "3, large"],
)
def test_extra_of_an_older_format_comes_back_on_all_members(
    tmp_path: Path, written: int, extra: dict, expected: dict
) -> None:
    nets = [normed() for _ in range(2)]
    run_members(2, lambda run: unbroken(run, nets[run.rank], tmp_path))
    rewritten(tmp_path, written, 2, extra)
    assert run_members(2, lambda run: load_extra(run, nets[run.rank], tmp_path)) == [expected] * 2


@pytest.mark.parametrize("extra", [[], {"$stella": "?"}])
def test_a_damaged_extra_of_format_3_is_named_on_every_member(tmp_path: Path, extra: object) -> None:
    nets = [normed() for _ in range(2)]
    run_members(2, lambda run: unbroken(run, nets[run.rank], tmp_path))
    rewritten(tmp_path, 3, 2, extra)
    for failure in outcomes_of_members(2, lambda run: load_extra(run, nets[run.rank], tmp_path)):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert "latest.json is damaged" in str(failure)
        assert "'extra'" in str(failure)
