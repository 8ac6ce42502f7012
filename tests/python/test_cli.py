"""The `stella` command: what it prints, what it refuses, and what it does not import."""

from __future__ import annotations

import base64
import os
import re
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import stellatrain
from stellatrain.cli import main
from stellatrain.lab import Lab
from stellatrain.lab.command import who_starts


def stella(*arguments: str, **options: object) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "stellatrain", *arguments]
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, **options)


def test_help_of_the_lab_needs_neither_torch_nor_the_core() -> None:
    code = """
import sys
from stellatrain.cli import main
try:
    main(["lab", "--help"])
except SystemExit as end:
    assert end.code == 0
assert not {"torch", "numpy", "stellatrain._core"} & set(sys.modules)
"""
    assert subprocess.run([sys.executable, "-c", code], stdout=subprocess.DEVNULL).returncode == 0


def test_a_new_secret_is_one_line_of_256_random_bits() -> None:
    lines = {stella("secret", "new", stdout=subprocess.PIPE).stdout for _ in range(2)}
    assert len(lines) == 2
    for line in lines:
        prefix, _, text = line.partition(":")
        assert prefix == "stella-secret-1"
        assert len(base64.urlsafe_b64decode(text.strip() + "=")) == 32


@pytest.mark.parametrize(("mode", "says"), [(0o644, "only you can read"), (0o600, "")])
def test_a_file_for_a_secret_is_made_private(tmp_path: Path, mode: int, says: str) -> None:
    path = tmp_path / "run.key"
    path.touch(mode)
    path.chmod(mode)
    with path.open("w") as file:
        done = stella("secret", "new", stdout=file)
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text().startswith("stella-secret-1:")
    assert bool(done.stderr) is bool(says)
    assert says in done.stderr


@pytest.mark.parametrize(
    ("redirection", "why"), [("> /dev/full", "No space left on device"), (">&-", "stdout is closed")]
)
@pytest.mark.parametrize("command", ["secret new", "info"])
def test_what_cannot_be_printed_is_an_error_of_one_line(command: str, redirection: str, why: str) -> None:
    done = subprocess.run(
        ["sh", "-c", f"{sys.executable} -m stellatrain {command} {redirection}"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"stella: cannot print: {why}")
    assert ("holds none; remove it" in line) is (command == "secret new")


def test_the_version_is_one_line(capsys: pytest.CaptureFixture) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"stella {stellatrain.__version__}\n"


def test_info_names_versions(capsys: pytest.CaptureFixture) -> None:
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    assert all(name in printed for name in ("stellatrain", "python", "torch"))


def test_there_is_one_version() -> None:
    root = Path(__file__).parents[2]
    cmake = re.search(r"project\(stellatrain VERSION (\S+)", (root / "CMakeLists.txt").read_text())
    assert stellatrain.__version__ == metadata.version("stellatrain") == cmake[1]


def test_wrong_arguments_are_sentences_and_status_2(capsys: pytest.CaptureFixture) -> None:
    assert main(["lab", "--wan", "fast", "--", "true"]) == 2
    assert "--wan is 'fast', which is no rate" in capsys.readouterr().err
    assert main(["lab", "--members", "1,2,3", "--", "true"]) == 2
    assert "3 sizes for 2 clusters" in capsys.readouterr().err
    assert main(["lab"]) == 2
    assert "nothing to run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("option", "value", "sentence"),
    [
        ("--timeout", "inf", "it must be above 0 and at most 1e+06 seconds"),
        ("--timeout", "nan", "it must be above 0 and at most 1e+06 seconds"),
        ("--timeout", "-1", "it must be above 0 and at most 1e+06 seconds"),
        ("--timeout", "0", "it must be above 0 and at most 1e+06 seconds"),
        ("--grace", "-1", "it must be 0 to 1e+06 seconds"),
        ("--grace", "nan", "it must be 0 to 1e+06 seconds"),
        ("--threads", "0", "it must be at least 1"),
        ("--threads", "-3", "it must be at least 1"),
        ("--clusters", "99999999999999999999", "a lab has 1 to 64 clusters"),
    ],
)
def test_numbers_that_the_lab_cannot_take_are_named_before_anything_is_built(
    capsys: pytest.CaptureFixture, option: str, value: str, sentence: str
) -> None:
    assert main(["lab", option, value, "--", "true"]) == 2
    assert capsys.readouterr().err == f"stella: {option} is {value}; {sentence}.\n"


def test_a_log_dir_that_cannot_be_one_is_named_before_anything_is_built(
    capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.touch()
    for folder in (file, file / "below", Path("/proc/x"), tmp_path / "a\0b"):
        assert main(["lab", "--log-dir", str(folder), "--", "true"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"stella: --log-dir is '{folder}'; it must be a folder")


@pytest.mark.parametrize(
    ("clusters", "members", "line"),
    [
        (1, 1, "1 member starts: c0m0"),
        (2, (2, 1), "3 members start: c0m0, c0m1, c1m0"),
        (2, 4, "8 members start: c0m0, c0m1, c0m2, c0m3, c1m0, c1m1, c1m2, c1m3"),
        (4, 64, "256 members start: c0m0, c0m1, c0m2, c0m3, c0m4, c0m5, c0m6, ..., c3m63"),
    ],
)
def test_who_starts_in_a_lab_is_one_line(clusters: int, members: int | tuple[int, ...], line: str) -> None:
    assert who_starts(Lab(clusters, members)) == line


@pytest.mark.parametrize("command", ["lab", "info"])
def test_an_unknown_option_of_a_subcommand_is_told_with_its_usage(
    capsys: pytest.CaptureFixture, command: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main([command, "--bogus", *(["--", "true"] if command == "lab" else [])])
    assert end.value.code == 2
    printed = capsys.readouterr().err
    assert printed.startswith(f"usage: stella {command} [")
    assert printed.endswith(f"stella {command}: error: unrecognized arguments: --bogus\n")


def test_info_without_a_core_says_why_and_fails() -> None:
    done = stella("info", stdout=subprocess.PIPE, env={**os.environ, "STELLA_CPU": "bogus"})
    assert done.returncode == 1
    assert "core        not available (" in done.stdout
    assert "set STELLA_CPU to one of" in done.stdout


@pytest.mark.parametrize("command", ["lab -- true", "secret new"])
def test_a_core_that_cannot_be_used_is_one_line(command: str) -> None:
    environment = {**os.environ, "STELLA_CPU": "bogus"}
    done = stella(*command.split(), stdout=subprocess.PIPE, env=environment)
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr.startswith("stella: ") and done.stderr.count("\n") == 1
    assert "set STELLA_CPU to one of" in done.stderr


def test_a_core_that_cannot_be_used_may_be_imported_again_to_no_avail() -> None:
    code = """
import stellatrain
for attempt in range(3):
    try:
        stellatrain.Error
    except ImportError as error:
        print(error)
"""
    environment = {**os.environ, "STELLA_CPU": "bogus"}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("set STELLA_CPU to one of") == 3
