"""stellatrain.mean(): decisions that every member takes alike."""

from __future__ import annotations

import math
import re
import sys
import threading
import warnings
from typing import Any

import numpy
import pytest
import torch
from conftest import outcomes_of_members, run_members
from training import SPARSE, flat, loss_of, mlp, sgd, vectors

from stellatrain import Error
from stellatrain.errors import number
from stellatrain.run import Run


def means(values: list, samples: list) -> list[float]:
    """By member. They leave in order: an end without finish() may overtake a third member's message."""

    def member(run: Run) -> float:
        result = run.mean(values[run.rank], samples[run.rank])
        run.finish()
        return result

    return run_members(len(values), member)


def test_it_is_the_mean_over_samples_and_the_same_number_everywhere() -> None:
    assert means([0.1, 0.7, 5.0], [3, 1, 0]) == [(0.1 * 3 + 0.7) / 4] * 3
    assert means([torch.tensor(float(rank)) for rank in range(3)], [1, 1, 1]) == [1.0] * 3
    assert means([7], [1]) == [7.0]


def test_a_value_that_is_no_number_shows_on_all_unless_it_counts_for_nothing() -> None:
    assert all(map(math.isnan, means([1, math.nan], [1, 1])))
    assert means([3, math.nan], [2, 0]) == [3.0] * 2


def test_huge_numbers_have_a_mean_that_is_no_larger() -> None:
    largest = sys.float_info.max
    assert means([1e308, 1e308], [1e12, 1e12]) == [1e308] * 2
    assert means([largest] * 3, [0.1, 7, 1e12]) == [largest] * 3
    assert means([largest, -largest], [3, 1]) == [largest / 2] * 2
    assert means([math.inf, -1e308], [1, 1e12]) == [math.inf] * 2


def test_the_mean_of_equal_numbers_is_that_number() -> None:
    assert means([0.1] * 3, [0.1, 0.7, 1e-9]) == [0.1] * 3


@pytest.mark.parametrize("samples", [-1, math.nan, math.inf, 1e308, 1e13, 1e-10])
def test_samples_that_make_no_sense_are_named(samples: float) -> None:
    (failure,) = outcomes_of_members(1, lambda run: run.mean(1, samples))
    assert isinstance(failure, Error)
    assert failure.code == "invalid_argument"
    assert str(failure) == f"samples is {float(samples)}; it must be 0, or lie between 1e-9 and 1e12"


def test_a_mean_of_nothing_is_an_error_on_all() -> None:
    for failure in outcomes_of_members(3, lambda run: run.mean(1, 0)):
        assert isinstance(failure, Error)
        assert "all members passed samples=0" in str(failure)


class NoNumber:
    def __float__(self) -> float:
        raise KeyError("weight")

    def __repr__(self) -> str:
        return "NoNumber()"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ((None,), "value is None; it must be one number"),
        ((NoNumber(),), "value is NoNumber(); it must be one number"),
        ((1, "many"), "samples is 'many'; it must be one number"),
        ((1, -1), "samples is -1.0; it must be 0, or lie between 1e-9 and 1e12"),
    ],
)
def test_a_bad_argument_on_one_member_is_an_error_on_all_and_who_catches_it_stays_in_step(
    arguments: tuple[Any, ...], sentence: str
) -> None:
    def member(run: Run) -> tuple[str, str, float]:
        with pytest.raises(Error) as failure:
            run.mean(*(arguments if run.rank == 1 else (7, 1)))
        result = run.mean(run.rank)
        run.finish()
        return failure.value.code, str(failure.value), result

    for code, told, result in run_members(3, member):
        assert code == "invalid_argument"
        assert re.fullmatch(r"mean: member 1 \(.*\) could not do its part: " + re.escape(sentence), told)
        assert result == 1.0


@pytest.mark.parametrize(
    "message",
    [
        b'{"done": [1.0]}',
        b'{"done": [1.0, -1.0]}',
        b'{"done": [1.0, NaN]}',
        b'{"done": [1.0, 1e13]}',
        b'{"done": ["1", 1.0]}',
        b'{"done": 7}',
        b'{"failed": ["io", 7]}',
        b'{"failed": "io"}',
        b"[1.0, 1.0]",
        b"?",
    ],
)
def test_what_no_member_sends_is_an_error_that_names_the_sender(message: bytes) -> None:
    heard = threading.Event()

    def member(run: Run) -> float | None:
        if run.rank == 1:
            run.session.all_gather("mean", message)
            heard.wait(10)  # or its farewell may overtake the message
            return None
        try:
            return run.mean(1)
        finally:
            heard.set()

    failure, _ = outcomes_of_members(2, member)
    assert isinstance(failure, Error)
    assert failure.code == "protocol"
    assert "member 1 (" in str(failure)


def test_a_scheduler_that_follows_it_steps_alike_with_exchanges_under_way() -> None:
    """Each member validates on its own share, and one alone would lower its learning rate first."""

    def member(run: Run) -> tuple:
        net = nets[run.rank]
        _, optimizer = run.distribute(net, sgd(net), **SPARSE, rule="sparse")
        scheduler = torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, patience=0, factor=0.5)
        for step, batch in enumerate(vectors(12, 4)):
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            optimizer.step()
            scheduler.step(run.mean(step % 3 if run.rank else 1 / (1 + step)))
        rate = optimizer.param_groups[0]["lr"]
        run.finish()
        return rate, flat(net).tolist()

    nets = [mlp(), mlp()]
    first, second = run_members(2, member)
    assert first == second
    assert first[0] < 0.05


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (("a",), "value"),
        ((1.0, "b"), "samples"),
        ((torch.ones(3),), "value"),
        ((torch.tensor(1j),), "value"),
        ((torch.empty(1, device="meta"),), "value"),
        ((10**400,), "value"),
        ((10**5000,), "value"),
        (("0.5",), "value"),
        ((b"0.5",), "value"),
        ((bytearray(b"0.5"),), "value"),
        ((numpy.str_("0.5"),), "value"),
        ((1j,), "value"),
        ((numpy.complex64(1),), "value"),
        ((numpy.clongdouble(1),), "value"),
        ((numpy.array([1j]),), "value"),
        ((None,), "value"),
        ((1.0, "1"), "samples"),
    ],
)
def test_what_is_no_number_is_named(arguments: tuple[Any, ...], name: str) -> None:
    def member(run: Run) -> None:
        with pytest.raises(Error, match=f"^{name} (is|has the shape) .*; it must be one number"):
            run.mean(*arguments)

    run_members(1, member)


def test_a_value_that_is_no_number_is_shown_in_one_short_line() -> None:
    def member(run: Run) -> list[str]:
        sentences = []
        for value in (10**400, 10**5000, "x" * 1000):
            with pytest.raises(Error) as failure:
                run.mean(value)
            sentences.append(str(failure.value))
        return sentences

    ((huge, larger, text),) = run_members(1, member)
    assert huge == f"value is 1{'0' * 29}...{'0' * 30}; it must be one number, and small enough for a float"
    assert larger == "value is something of type int; it must be one number, and small enough for a float"
    assert text == f"value is '{'x' * 29}...{'x' * 29}'; it must be one number"


def test_a_loss_with_its_graph_is_a_number_like_any_other() -> None:
    """Without torch's warning that it loses its gradient: it is meant to."""
    loss = torch.tensor(2.0, requires_grad=True) * 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert means([loss], [1]) == [6.0]
    assert means([numpy.float32(0.5), numpy.array([[1.5]])], [1, True]) == [1.0] * 2


def test_what_a_gpu_did_wrong_before_is_not_blamed_on_the_value() -> None:
    class Lost:
        shape = ()

        def item(self) -> float:
            raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    with pytest.raises(torch.AcceleratorError):
        number(Lost(), "value")
