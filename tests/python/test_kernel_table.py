"""`make bench-kernels` hands its arguments on as they are, and they are looked at before a build."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bench import kernel_table

_ROOT = Path(__file__).parents[2]


def test_make_hands_arguments_on_whole_and_builds_nothing_for_wrong_ones(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\nfor word in "$@"; do echo "$word"; done\nexit 1\n')
    python.chmod(0o755)
    given = ["ROUNDS=1 2", "DEEPSPEED=/a b/py", f"PYTHON={python}"]
    done = subprocess.run(
        ["make", "--silent", "--old-file=setup", "bench-kernels", *given],
        cwd=_ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    words = ["-m", "bench.kernel_table", "--rounds", "1 2", "--deepspeed", "/a b/py", "--check"]
    assert done.stdout.splitlines() == words  # and nothing behind them


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--rounds", "1 2"], "argument --rounds: invalid int value: '1 2'"),
        (["--rounds", "0"], "--rounds is 0; it must be 1 to 100"),
        (["--rounds", "101"], "--rounds is 101; it must be 1 to 100"),
        (["--deepspeed", "/a b/py"], "--deepspeed is /a b/py, which cannot be run"),
        (["--deepspeed", "/bin/true"], "--deepspeed is /bin/true, which is no Python: it prints nothing"),
    ],
)
def test_wrong_arguments_are_named(
    capsys: pytest.CaptureFixture, arguments: list[str], sentence: str
) -> None:
    with pytest.raises(SystemExit) as end:
        kernel_table.main([*arguments, "--check"])
    assert end.value.code == 2
    assert sentence in capsys.readouterr().err


def test_good_arguments_are_only_looked_at() -> None:
    kernel_table.main(["--rounds", "100", "--check"])
