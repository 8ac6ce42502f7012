"""Files that are broken, or of another model, are errors on every member; nothing is loaded then."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpointing import described, file_of, normed, redescribe, rewrite, saved, started
from conftest import outcomes_of_members, run_members
from safetensors.torch import load_file, save_file
from training import adamw, mlp, plain_loop

from stellatrain import Error
from stellatrain.run import Run
from stellatrain.settings import MOMENTS


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("checkpoint") / "original"
    saved(directory, 2)
    return directory


@pytest.fixture
def checkpoint(original: Path, tmp_path: Path) -> Path:
    """A checkpoint of two members, to be damaged."""
    return Path(shutil.copytree(original, tmp_path / "run"))


def load_outcomes(directory: Path, world_size: int, model: Callable = normed, **options: Any) -> list[Any]:
    def member(run: Run):
        started(run, nets[run.rank], **options)
        run.load(directory)

    nets = [model() for _ in range(world_size)]
    return outcomes_of_members(world_size, member)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def garble(path: Path) -> None:
    path.write_bytes(os.urandom(1000))


def empty(path: Path) -> None:
    path.write_bytes(b"")


@pytest.mark.parametrize("damage", [truncate, garble, empty, Path.unlink])
@pytest.mark.parametrize("name", ["latest.json", "model", "consensus", "member-1"])
def test_a_broken_file_is_an_error_on_every_member_that_names_it(
    checkpoint: Path, damage: Callable[[Path], None], name: str
) -> None:
    path = file_of(checkpoint, name)
    damage(path)
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert path.name in str(failure)


def unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.mark.parametrize(
    ("name", "damage", "sentence"),
    [
        ("latest.json", truncate, "is damaged: it is no JSON, or not all of it is there; "),
        ("latest.json", empty, "is damaged: it is empty; "),
        (
            "latest.json",
            lambda path: path.write_bytes(b"\xff"),
            "is damaged: it holds bytes that are no text; ",
        ),
        ("latest.json", lambda path: path.write_text("[]"), "is damaged: it does not say which format"),
        ("model", truncate, "is cut short: it has "),
        ("member-1", lambda path: path.write_bytes(path.read_bytes()[:-1]), "is cut short: it has "),
        (
            "consensus",
            lambda path: path.write_bytes(path.read_bytes()[:20]),
            "is cut short: it has 20 bytes of ",
        ),
        ("model", empty, "is empty; "),
        ("model", garble, "is not what was saved: its SHA-256 is "),
        ("model", Path.unlink, "is missing: was it saved on this machine? "),
        ("model", unreadable, "Is a directory; "),
    ],
)
def test_damage_is_told_in_words_and_with_what_to_do(
    checkpoint: Path, name: str, damage: Callable[[Path], None], sentence: str
) -> None:
    path = file_of(checkpoint, name)
    damage(path)
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert sentence in str(failure)
        assert "restore the directory from a copy, or start without it" in str(failure)


def test_a_file_in_the_place_of_the_directory_of_a_checkpoint_is_told(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    for failure in load_outcomes(file, 2):
        assert isinstance(failure, Error)
        assert f"there is no {file}/latest.json: {file}, or what it lies in, is a file" in str(failure)


@pytest.mark.parametrize(
    "text",
    [
        *("[]", "{}", "null", "5", '"format"', "\udcff"),
        *(f'{{"format": {number}}}' for number in (5, 6, 99)),
        *(f'{{"format": 6, "name": {"[" * depth}{"]" * depth}}}' for depth in (900, 100_000)),
    ],
    ids=lambda text: text[:20],
)
def test_a_latest_json_that_is_none_is_an_error(checkpoint: Path, text: str) -> None:
    (checkpoint / "latest.json").write_text(text, errors="surrogateescape")
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert "latest.json" in str(failure)


def test_a_checkpoint_of_another_format_says_so(checkpoint: Path) -> None:
    path = checkpoint / "latest.json"
    path.write_text(json.dumps(described(checkpoint) | {"format": 4}))
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert "has format 4; this version reads 6" in str(failure)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("consensus", "weights.0.weight"),
        ("consensus", "exp_avg.3.bias"),
        ("member-1", "residual.0.weight"),
        ("model", "0.weight"),
    ],
)
def test_a_value_that_changed_on_disk_is_noticed_and_nothing_is_loaded(
    checkpoint: Path, name: str, key: str
) -> None:
    path = file_of(checkpoint, name)
    tensors = load_file(path)
    tensors[key].view(-1)[0] += 1e-6
    save_file(tensors, path)
    assert_nothing_is_loaded(checkpoint, "io", [str(path), "is not what was saved", "SHA-256"])


def assert_nothing_is_loaded(directory: Path, code: str, sentences: list[str], **options: Any) -> None:
    """And the run goes on."""

    def member(run: Run):
        optimizer, batches = started(run, net := nets[run.rank], **options)
        before = optimizer.digest(), optimizer.iteration, optimizer.engine.selector_state(), values_of(net)
        with pytest.raises(Error) as failure:
            run.load(directory)
        after = optimizer.digest(), optimizer.iteration, optimizer.engine.selector_state(), values_of(net)
        assert after == before
        plain_loop(net, optimizer, batches)
        run.finish()
        return failure.value.code, str(failure.value)

    nets = [normed(), normed()]
    for found, sentence in run_members(2, member):
        assert found == code
        for part in sentences:
            assert part in sentence


def values_of(net: torch.nn.Module) -> dict[str, list]:
    return {name: tensor.tolist() for name, tensor in net.state_dict().items()}


@pytest.mark.parametrize("world_size", [1, 3])
def test_a_checkpoint_of_another_world_size_is_a_mismatch_that_says_both(
    checkpoint: Path, world_size: int
) -> None:
    for failure in load_outcomes(checkpoint, world_size):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert f"was saved by 2 members, this run has {world_size}" in str(failure)


def wider() -> torch.nn.Module:
    net = normed()
    net[3] = torch.nn.Linear(149, 6)
    return net


def smaller() -> torch.nn.Module:
    return normed()[:2]


def plain_sgd(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(net.parameters(), lr=0.05)


def adam(net: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(net.parameters(), lr=0.01)


def with_buffer() -> torch.nn.Module:
    net = normed()
    net.register_buffer("more", torch.zeros(3))
    return net


@pytest.mark.parametrize(
    ("model", "options", "sentences"),
    [
        (wider, {}, ["745 values of", "'3.weight'", "needs 894"]),
        (mlp, {}, ["nothing for", "'2.weight'"]),
        (with_buffer, {}, ["nothing for 'buffer.more'", "needs (3,)"]),
        (smaller, {}, ["holds 'residual.3.bias'", "no place here"]),
        (normed, {"optimizer": "sgd"}, ["with the optimizer 'adamw', here it is 'sgd'"]),
        (normed, {"optimizer": adam}, ["with the optimizer 'adamw', here it is 'adam'"]),
    ],
)
def test_a_checkpoint_of_another_model_is_a_mismatch_that_names_the_difference(
    checkpoint: Path, model: Callable, options: dict, sentences: list[str]
) -> None:
    for failure in load_outcomes(checkpoint, 2, model, **options):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        for sentence in sentences:
            assert sentence in str(failure)


def negative(tensor: torch.Tensor) -> torch.Tensor:
    return -1 - tensor.to(torch.int64)


def as_float(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.to(torch.float32)


def halved(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten()[: tensor.numel() // 2]


def square(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.reshape(1, -1)


def odd(tensor: torch.Tensor) -> torch.Tensor:
    return tensor[1:]


def reads(text: bytes) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda _: torch.tensor(list(text), dtype=torch.uint8)


@pytest.mark.parametrize(
    ("name", "key", "change"),
    [
        ("member-1", "loader_epochs", None),
        ("member-1", "loader_epochs", as_float),
        ("member-1", "loader_epochs", lambda _: torch.tensor([1, -1])),
        ("member-1", "loader_epochs", lambda _: torch.tensor(3)),
        ("member-1", "selector.blocks", None),  # any other is allowed, but there is always one
        ("member-1", "selector.blocks", as_float),
        ("member-1", "selector.blocks", negative),
        ("member-1", "selector.blocks", square),
        ("member-1", "selector.blocks", odd),
        ("member-1", "torch_rng_state", None),
        ("member-1", "torch_rng_state", as_float),
        ("member-1", "torch_rng_state", halved),
        ("member-1", "torch_rng_state", torch.zeros_like),
        ("member-1", "residual.0.weight", square),
        ("member-1", "residual.0.weight", lambda tensor: tensor.to(torch.float64)),
        ("member-1", "buffer.1.running_mean", None),
        ("member-1", "buffer.1.running_mean", lambda tensor: tensor.to(torch.int32)),
        ("member-1", "buffer.more", lambda _: torch.zeros(1)),
        ("member-1", "residual.more", lambda _: torch.zeros(1)),
        ("member-1", "extra", None),
        ("member-1", "extra", as_float),
        ("member-1", "extra", square),
        ("member-1", "extra", odd),
        ("member-1", "extra", reads(b"[]")),
        ("member-1", "extra", reads(b"\xff")),
        ("member-1", "extra", reads(b"[" * 100_000)),
        ("member-1", "extra", reads(b'{"$stella": "?"}')),
        ("consensus", "steps.0.weight", negative),
        ("consensus", "exp_avg.0.weight", halved),
        ("consensus", "exp_avg.0.weight", None),
        ("consensus", "more", lambda _: torch.zeros(1)),
        ("consensus", "weights.more", lambda _: torch.zeros(1)),
        ("consensus", "more.0.weight", lambda _: torch.zeros(1)),
        ("consensus", "parameter.more", lambda _: torch.zeros(1)),
        ("model", "0.weight", halved),
        ("model", "0.weight", lambda tensor: tensor.to(torch.float64)),
        ("model", "1.running_mean", None),
        ("model", "more", lambda _: torch.zeros(1)),
    ],
)
def test_a_tensor_that_is_not_what_it_must_be_is_named_on_every_member_and_nothing_is_loaded(
    checkpoint: Path, name: str, key: str, change: Callable | None
) -> None:
    path = file_of(checkpoint, name)
    tensors = load_file(path)
    if change is None:
        del tensors[key]
    else:
        tensors[key] = change(tensors.get(key)).contiguous()
    rewrite(path, tensors)
    assert_nothing_is_loaded(
        checkpoint, "mismatch", [str(path), *key.split(".", 1)]
    )  # "'exp_avg' of '0.weight'"


@pytest.mark.parametrize(
    "damage",
    [
        {"iteration": "5"},
        {"iteration": -1},
        {"iteration": 2**64},
        {"name": "5"},
        {"name": "6-0123456789abcdef"},
        {"name": "5-../../a"},
        {"optimizer": 5},
        {"sha256": []},
        {"world_size": None},
        {"saved": None},
        {"saved": -1},
        {"param_groups": [5]},
        {"param_groups": [{"params": []}]},
        {"param_groups": [{"lr": "fast"}]},
        {"param_groups": [{"lr": "0.03"}]},
        {"param_groups": [{"lr": 10**400}]},
        {"param_groups": [{"betas": 1}]},
        {"param_groups": [{"lr": -1}]},
        {"param_groups": [{"lr": float("nan")}]},
        {"param_groups": [{"betas": [1.5, 0.9]}]},
        {"more": 1},
    ],
)
def test_a_value_of_latest_json_that_cannot_be_is_named_on_every_member(
    checkpoint: Path, damage: dict[str, Any]
) -> None:
    redescribe(checkpoint, damage)
    for failure in load_outcomes(checkpoint, 2):
        assert isinstance(failure, Error)
        assert failure.code in ("io", "mismatch")
        assert "latest.json" in str(failure)
        for key in damage:
            assert f"'{key}'" in str(failure)


def test_a_digit_that_changed_in_latest_json_is_noticed(checkpoint: Path) -> None:
    path = checkpoint / "latest.json"
    path.write_text(path.read_text().replace('"lr": 0.01', '"lr": 0.03'))
    assert_nothing_is_loaded(checkpoint, "io", ["latest.json is damaged", "not those that save() wrote"])


def test_what_fails_on_one_member_after_all_checks_is_told_to_all(checkpoint: Path) -> None:
    """Not that its neighbours wait for it in another collective, and blame its silence."""

    def member(run: Run):
        started(run, nets[run.rank])
        if run.rank == 1:
            run.set_loader_epochs = None  # which nobody can call
        run.load(checkpoint)

    nets = [normed(), normed()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "io"
        assert "member 1 (" in str(failure)
        assert "could not do its part: TypeError: 'NoneType' object is not callable" in str(failure)


def test_a_load_that_failed_elsewhere_leaves_no_moments_behind(tmp_path: Path) -> None:
    """Room for those of the saved run is made only when every member has read its files."""

    def moments(optimizer) -> set[str]:
        return {name for name, *_ in optimizer.engine.state()}

    def save(run: Run):
        optimizer, batches = started(run, nets[run.rank], optimizer=plain_sgd)
        optimizer.param_groups[0]["momentum"] = 0.9
        plain_loop(nets[run.rank], optimizer, batches)
        assert "momentum_buffer" in moments(optimizer)
        run.save(tmp_path)
        run.finish()

    def load(run: Run):
        optimizer, _ = started(run, nets[run.rank], optimizer=plain_sgd)
        with pytest.raises(Error, match="member-1-10-"):
            run.load(tmp_path)
        assert "momentum_buffer" not in moments(optimizer)
        run.finish()

    nets = [normed(), normed()]
    run_members(2, save)
    truncate(file_of(tmp_path, "member-1"))
    run_members(2, load)


@pytest.mark.parametrize("make", [plain_sgd, adamw])
def test_the_moments_that_checks_know_are_those_that_the_engine_can_hold(make: Callable) -> None:
    def member(run: Run):
        optimizer, _ = started(run, normed(), optimizer=make)
        names = {name for names in MOMENTS.values() for name in names} | {"step", "weights", "residual"}
        return {name for name in names if optimizer.engine.allocate_moment(name, 0)}, optimizer.moments

    ((found, known),) = run_members(1, member)
    assert found == set(known)
