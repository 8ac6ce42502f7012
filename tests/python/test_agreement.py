"""What members do together: all go on, or all raise the same."""

from __future__ import annotations

import pytest
from conftest import run_members

from stellatrain import Error
from stellatrain.agreement import together
from stellatrain.run import Run


@pytest.mark.parametrize(
    ("failure", "told"),
    [
        (MemoryError(), "MemoryError"),
        (KeyError("lr"), "KeyError: 'lr'"),
        (TimeoutError(), "TimeoutError"),
        (OSError(28, "No space left on device"), "[Errno 28] No space left on device"),
    ],
)
def test_whatever_goes_wrong_on_one_member_is_told_to_all_in_words(failure: Exception, told: str) -> None:
    def work(run: Run) -> int:
        if run.rank == 1:
            raise failure
        return run.rank

    def member(run: Run) -> tuple[str, list[int]]:
        with pytest.raises(Error) as raised:
            together(run, "mean", lambda: work(run))
        assert str(raised.value).startswith("mean: member 1 (")
        went_on = together(run, "mean", lambda: 7)
        run.finish()
        return str(raised.value).partition(" could not do its part: ")[2], went_on

    assert run_members(3, member) == [(told, [7, 7, 7])] * 3
