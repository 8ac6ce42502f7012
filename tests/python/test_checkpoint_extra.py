"""What goes along with a checkpoint comes back as it was: schedulers above all."""

from __future__ import annotations

import json
from collections import Counter, OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import run_members
from torch.optim import lr_scheduler
from training import mlp, sgd

from stellatrain import Error
from stellatrain.extra import from_json, to_json
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
        _, optimizer = run.distribute(net, sgd(net))
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
