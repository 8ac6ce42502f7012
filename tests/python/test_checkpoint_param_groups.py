"""param_groups in a checkpoint: what must be the same on all members, and what can be saved."""

from __future__ import annotations

import decimal
from pathlib import Path

import numpy
import pytest
import torch
from checkpointing import loaded_from, normed, save_after, started
from conftest import outcomes_of_members, run_members
from training import plain_loop

from stellatrain import Error
from stellatrain.run import Run


@pytest.mark.parametrize("shared", [True, False])
def test_members_whose_param_groups_differ_do_not_save(tmp_path: Path, shared: bool) -> None:
    """The next step would say it; until then the checkpoint before must stay."""

    def member(run: Run) -> None:
        optimizer, _ = started(run, nets[run.rank])
        optimizer.param_groups[0]["lr"] = 0.1 + run.rank
        run.save(tmp_path / ("0" if shared else str(run.rank)))

    nets = [normed(), normed()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert "save: member 1 (" in str(failure)
        assert "could not do its part: param_groups[0]: lr is 1.1 here, 0.1 there, on member 0 (" in str(
            failure
        )
    assert list(tmp_path.iterdir()) == []


def test_members_whose_settings_differ_by_rounding_or_by_what_the_engine_does_not_use_save(
    tmp_path: Path,
) -> None:
    """Machines compute a schedule with different libraries; fused=True is for those with a GPU."""

    def trained(run: Run) -> tuple:
        net = nets[run.rank]
        optimizer, batches = started(run, net)
        group = optimizer.param_groups[0]
        group.update(lr=0.1 * (1 + 1e-13 * run.rank), fused=bool(run.rank), best=float("nan"))
        return optimizer, batches, group

    def save(run: Run) -> None:
        optimizer, batches, _ = trained(run)
        plain_loop(nets[run.rank], optimizer, batches[:2])
        run.save(tmp_path / str(run.rank))
        run.finish()

    def load(run: Run) -> float:
        optimizer, batches, group = trained(run)
        run.load(tmp_path / str(run.rank))
        plain_loop(nets[run.rank], optimizer, batches[:2])
        run.finish()
        return group["lr"]

    nets = [normed(), normed()]
    run_members(2, save)
    assert run_members(2, load) == [0.1, 0.1]


@pytest.mark.parametrize(
    ("lr", "needed"),
    [
        (-1e-9, "param_groups[0]: lr is -1e-09"),
        (float("nan"), "param_groups[0]: lr is nan"),
        (float("inf"), "param_groups[0]: lr is inf"),
        ("0.1", "param_groups[0]: 'lr' is '0.1', which is no number"),
        (decimal.Decimal("0.1"), "param_groups[0]['lr'] of member 0 ("),
    ],
    ids=str,
)
def test_settings_that_could_not_be_loaded_are_not_saved(tmp_path: Path, lr: object, needed: str) -> None:
    """A schedule that went below zero after the last step, say."""

    def member(run: Run) -> None:
        optimizer, _ = started(run, normed())
        optimizer.param_groups[0]["lr"] = lr
        run.save(tmp_path)

    digest = save_after(2, [tmp_path])
    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "invalid_argument"
    assert needed in str(failure)
    assert loaded_from([tmp_path]) == [(2, digest)]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        *(("betas", betas) for betas in (None, 0.9, ("a", "b"), [0.9, None])),
        ("lr", 10**400),
        ("maximize", torch.zeros(2)),
        ("amsgrad", None),
    ],
    ids=lambda value: repr(value)[:20],
)
def test_settings_that_are_no_numbers_on_one_member_are_named_on_all(
    tmp_path: Path, key: str, value: object
) -> None:
    def member(run: Run) -> None:
        optimizer, _ = started(run, nets[run.rank])
        if run.rank == 1:
            optimizer.param_groups[0][key] = value
            if value is None and key != "betas":
                del optimizer.param_groups[0][key]
        run.save(tmp_path)

    nets = [normed(), normed()]
    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert "save: member 1 (" in str(failure)
        assert failure.code == "invalid_argument"
        assert "could not do its part: param_groups[0]" in str(failure)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("lr", [numpy.float32(0.25), torch.tensor(0.25), True], ids=repr)
def test_a_number_of_another_library_is_resumed_as_a_number(tmp_path: Path, lr: object) -> None:
    def save(run: Run) -> None:
        optimizer, _ = started(run, normed())
        optimizer.param_groups[0]["lr"] = lr
        run.save(tmp_path)

    def load(run: Run) -> object:
        optimizer, _ = started(run, normed())
        run.load(tmp_path)
        return optimizer.param_groups[0]["lr"]

    run_members(1, save)
    assert run_members(1, load) == [float(lr)]
