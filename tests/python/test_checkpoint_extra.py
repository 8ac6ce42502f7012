"""What goes along with a checkpoint comes back as it was: schedulers above all."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict, defaultdict, namedtuple
from collections.abc import Callable
from enum import Enum, IntEnum
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from checkpointing import started
from conftest import run_members
from torch.optim import lr_scheduler
from training import mlp, sgd

from stellatrain import Error
from stellatrain.extra import from_json, to_json, to_tensor
from stellatrain.run import Run

STEPS, BREAK = 14, 4


def chained(optimizer: torch.optim.Optimizer) -> Any:
    return lr_scheduler.ChainedScheduler(
        [lr_scheduler.ConstantLR(optimizer, total_iters=3), lr_scheduler.MultiStepLR(optimizer, [6, 9])]
    )


def sequential(optimizer: torch.optim.Optimizer) -> Any:
    """The second asks for the elements() of a Counter when its turn comes, after the break."""
    parts = [lr_scheduler.LinearLR(optimizer, total_iters=3), lr_scheduler.MultiStepLR(optimizer, [2, 2, 5])]
    return lr_scheduler.SequentialLR(optimizer, parts, milestones=[6])


SCHEDULERS: dict[str, Callable[[torch.optim.Optimizer], Any]] = {
    "ChainedScheduler": chained,
    "ConstantLR": lambda o: lr_scheduler.ConstantLR(o, total_iters=6),
    "CosineAnnealingLR": lambda o: lr_scheduler.CosineAnnealingLR(o, 10),
    "CosineAnnealingWarmRestarts": lambda o: lr_scheduler.CosineAnnealingWarmRestarts(o, 3, 2),
    "CyclicLR": lambda o: lr_scheduler.CyclicLR(o, 0.01, 0.1, step_size_up=3),
    "ExponentialLR": lambda o: lr_scheduler.ExponentialLR(o, 0.9),
    "LambdaLR": lambda o: lr_scheduler.LambdaLR(o, lambda step: 0.9**step),
    "LinearLR": lambda o: lr_scheduler.LinearLR(o, total_iters=8),
    "MultiStepLR": lambda o: lr_scheduler.MultiStepLR(o, [2, 6, 6, 10]),
    "MultiplicativeLR": lambda o: lr_scheduler.MultiplicativeLR(o, lambda step: 0.9),
    "OneCycleLR": lambda o: lr_scheduler.OneCycleLR(o, 0.2, total_steps=STEPS + 1),
    "PolynomialLR": lambda o: lr_scheduler.PolynomialLR(o, 10, 2),
    "ReduceLROnPlateau": lambda o: lr_scheduler.ReduceLROnPlateau(o, patience=1),
    "SequentialLR": sequential,
    "StepLR": lambda o: lr_scheduler.StepLR(o, 3),
}


def test_no_scheduler_of_torch_is_forgotten_here() -> None:
    """SWALR's state is its optimizer's and a function, which nothing but pickle keeps."""
    ours = {"LRScheduler", "SWALR"} | SCHEDULERS.keys()
    for name in lr_scheduler.__all__:
        assert name in ours, name


def rates(scheduler: Any, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """The rate of each step; the loss of ReduceLROnPlateau stops falling at step 3."""
    seen = []
    for step in steps:
        seen.append(optimizer.param_groups[0]["lr"])
        plateau = isinstance(scheduler, lr_scheduler.ReduceLROnPlateau)
        scheduler.step(*[max(1.0, 4.0 - step)] if plateau else [])
    return seen


@pytest.mark.parametrize("name", SCHEDULERS)
@pytest.mark.filterwarnings("ignore:Detected call of", "ignore:.*epoch parameter in")
def test_a_resumed_scheduler_goes_on_as_one_that_never_stopped(tmp_path: Path, name: str) -> None:
    def started(run: Run) -> tuple[Any, torch.optim.Optimizer]:
        net = mlp()
        _, optimizer = run.distribute(net, sgd(net), rule="sparse")
        return SCHEDULERS[name](optimizer), optimizer

    def save(run: Run) -> list[float]:
        scheduler, optimizer = started(run)
        before = rates(scheduler, optimizer, range(BREAK))
        run.save(tmp_path, {"scheduler": scheduler.state_dict()})
        return before + rates(scheduler, optimizer, range(BREAK, STEPS))

    def load(run: Run) -> list[float]:
        scheduler, optimizer = started(run)
        scheduler.load_state_dict(run.load(tmp_path)["scheduler"])
        return rates(scheduler, optimizer, range(BREAK, STEPS))

    (unbroken,) = run_members(1, save)
    assert len(set(unbroken[BREAK:])) > 1, "the test sees no change of the rate after the break"
    assert run_members(1, load) == [unbroken[BREAK:]]


@pytest.mark.parametrize(
    "value",
    [
        {"plain": [1, 2.5, "three", True, None, {"deep": []}]},
        {1: "a", "1": "b", None: "c", 2.5: "d", (1, "x"): "e"},
        {True: 1},
        {"t": (1, [2, (3,)], {}), "empty": ()},
        Counter({2: 1, 6: 2}),
        {"$stella": 1},
        {"$stella": ["tuple", [1]]},
        {"inf": [float("inf"), float("-inf")], "\udcff": "\udcff"},
    ],
)
def test_what_is_kept_comes_back_equal_and_of_the_same_type(value: Any) -> None:
    found = from_json(json.loads(json.dumps(to_json(value))))
    assert found == value
    assert repr(found) == repr(value)


def nested(levels: int) -> list:
    return [nested(levels - 1)] if levels else []


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (
            {"scheduler": {"best": torch.tensor(1.0)}},
            "extra['scheduler']['best'] cannot be kept: it is a torch",
        ),
        ({"a": [0, {3}]}, "extra['a'][1] cannot be kept: it is a builtins.set"),
        ({"a": {frozenset(): 1}}, "extra['a'] cannot be kept: its key frozenset() is a builtins.frozenset"),
        ({"a": {float("nan"): 1}}, "its key nan would not be found again"),
        ({"a": nested(200)}, "is nested deeper than 100 levels"),
    ],
)
def test_what_cannot_be_kept_is_refused_with_its_path(value: Any, sentence: str) -> None:
    with pytest.raises(Error) as failure:
        to_json(value)
    assert failure.value.code == "invalid_argument"
    assert sentence in str(failure.value)


Point = namedtuple("Point", "x y")


class Number(IntEnum):
    one = 1


class Word(str, Enum):
    yes = "yes"


class Rows(list):
    pass


class Settings(dict):
    pass


@pytest.mark.parametrize(
    "value",
    [
        Number.one,
        Word.yes,
        Rows([1]),
        Settings(a=1),
        Point(1, 2),
        numpy.float64(1.5),
        numpy.str_("a"),
        defaultdict(int, a=1),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_would_come_back_as_a_type_that_it_is_derived_from_is_refused(value: Any) -> None:
    kind = f"it is a {type(value).__module__}.{type(value).__qualname__}"
    with pytest.raises(Error, match="cannot be kept") as failure:
        to_json({"a": [value]})
    assert f"save: extra['a'][0] cannot be kept: {kind}" in str(failure.value)


@pytest.mark.parametrize("key", [Number.one, Word.yes, Point(1, 2), numpy.float64(1.5), (0, Number.one)])
def test_a_key_that_would_come_back_as_another_type_is_refused(key: Any) -> None:
    with pytest.raises(Error, match=r"extra\['a'\] cannot be kept: its key"):
        to_json({"a": {key: 1}})


def test_extra_that_is_no_dict_is_refused() -> None:
    with pytest.raises(Error, match=r"extra is a builtins\.list; it must be a dict"):
        to_tensor([])


def extras_loaded(directory: Path, extras: list[dict]) -> list[dict]:
    """What each member gets that saved one of `extras`."""

    def save(run: Run) -> None:
        started(run, nets[run.rank])
        run.save(directory, extras[run.rank])
        run.finish()

    def load(run: Run) -> dict:
        started(run, nets[run.rank])
        extra = run.load(directory)
        run.finish()
        return extra

    nets = [mlp() for _ in extras]
    run_members(len(extras), save)
    return run_members(len(extras), load)


def test_every_member_gets_back_its_own_extra(tmp_path: Path) -> None:
    """As its GradScaler's scale, or where it is in its share of the data."""
    extras = [{"scale": 65536.0, "cursor": (0, 7)}, {"scale": 32768.0, "cursor": (1, 9)}, {}]
    assert extras_loaded(tmp_path, extras) == extras


def test_a_large_extra_comes_back(tmp_path: Path) -> None:
    """Larger than what an all-gather carries, which is 16 MiB."""
    extras = [{"text": "ab" * 10_000_000}, {"text": "c"}]
    assert extras_loaded(tmp_path, extras) == extras


def test_an_ordered_dict_comes_back_as_a_dict() -> None:
    assert from_json(to_json(OrderedDict(a=1))) == {"a": 1}


@pytest.mark.parametrize(
    "value",
    [
        {"$stella": 1},
        {"$stella": ["set", []]},
        {"$stella": ["dict", [1]]},
        {"$stella": ["dict", [[[], 1]]]},
        {"$stella": ["tuple", 1]},
        {"$stella": ["tuple", []], "more": 1},
        {"$stella": [[], []]},
    ],
)
def test_marks_that_save_never_writes_are_errors(value: Any) -> None:
    with pytest.raises(ValueError, match=r"\$stella"):
        from_json(value)
