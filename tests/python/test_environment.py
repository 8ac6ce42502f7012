"""What a member learns from its environment, and what it says when that makes no sense."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import outcomes_of_members, run_members
from training import adamw, mlp

from stellatrain import Error, environment
from stellatrain.environment import Membership, membership, tuned
from stellatrain.run import Run

TORCHRUN = {"RANK": "1", "WORLD_SIZE": "4"}
SLURM = {"SLURM_PROCID": "2", "SLURM_NTASKS": "8"}
STELLA = {"STELLA_RANK": "3", "STELLA_WORLD_SIZE": "5"}


def test_without_any_variable_a_member_trains_alone() -> None:
    assert membership({}) == Membership(rank=0, world_size=1)


@pytest.mark.parametrize(
    ("env", "rank", "world_size"),
    [
        (TORCHRUN, 1, 4),
        (SLURM, 2, 8),
        (STELLA, 3, 5),
        (SLURM | TORCHRUN, 1, 4),
        (SLURM | TORCHRUN | STELLA, 3, 5),
        (SLURM | {"STELLA_RANK": "4"}, 4, 8),
        (TORCHRUN | {"STELLA_RANK": ""}, 1, 4),
    ],
)
def test_stellas_variables_win_over_torchruns_and_those_over_slurms(
    env: dict[str, str], rank: int, world_size: int
) -> None:
    found = membership(env)
    assert (found.rank, found.world_size) == (rank, world_size)


def test_every_field_has_its_variable() -> None:
    env = {
        "STELLA_RANK": "1",
        "STELLA_WORLD_SIZE": "2",
        "STELLA_MEMBER": "office",
        "STELLA_CLUSTER": "here",
        "STELLA_HOST": "192.0.2.1",
        "STELLA_PORT": "29400",
        "STELLA_COORDINATOR": "192.0.2.2:29400",
        "STELLA_SECRET_FILE": "run.key",
        "STELLA_SECRET": "stella-secret-1:x",
        "STELLA_JOIN_TIMEOUT": "1.5",
        "STELLA_PEER_TIMEOUT": "30",
    }
    expected = Membership(
        rank=1,
        world_size=2,
        name="office",
        cluster="here",
        host="192.0.2.1",
        port=29400,
        coordinator="192.0.2.2:29400",
        secret_file="run.key",
        secret="stella-secret-1:x",
        join_timeout=1.5,
        peer_timeout=30.0,
    )
    assert membership(env) == expected


@pytest.mark.parametrize(
    ("env", "sentence"),
    [
        ({"STELLA_RANK": "first"}, "STELLA_RANK is 'first'; it must be a whole number"),
        ({"RANK": "1.5", "WORLD_SIZE": "4"}, "RANK is '1.5'; it must be a whole number"),
        ({"STELLA_RANK": "4", "STELLA_WORLD_SIZE": "4"}, "rank 4 does not exist in a world of 4"),
        ({"STELLA_RANK": "-1", "STELLA_WORLD_SIZE": "4"}, "rank -1 does not exist in a world of 4"),
        ({"WORLD_SIZE": "0"}, "in a world of 0"),
        ({"STELLA_PORT": "70000"}, "STELLA_PORT is 70000; it must lie between 0 and 65535"),
        ({"STELLA_PORT": "http"}, "STELLA_PORT is 'http'"),
        ({"STELLA_JOIN_TIMEOUT": "soon"}, "STELLA_JOIN_TIMEOUT is 'soon'; it must be a number"),
        ({"STELLA_JOIN_TIMEOUT": "-1"}, "STELLA_JOIN_TIMEOUT is '-1'; it must be at least 0.001"),
        (
            {"STELLA_JOIN_TIMEOUT": "inf"},
            "STELLA_JOIN_TIMEOUT is 'inf'; it must be at least 0.001 and at most 1e8",
        ),
        (
            {"STELLA_COORDINATOR": "192.0.2.2"},
            "STELLA_COORDINATOR is '192.0.2.2'; it must be host:port of member 0",
        ),
        ({"STELLA_COORDINATOR": "2001:db8::1:29400"}, "it must be host:port of member 0"),
        ({"STELLA_COORDINATOR": "[2001:db8::1:29400"}, "it must be host:port of member 0"),
        ({"STELLA_COORDINATOR": "[]:29400"}, "it must be host:port of member 0"),
        ({"STELLA_COORDINATOR": "192.0.2.2:http"}, "it must be host:port of member 0"),
        ({"STELLA_COORDINATOR": ":29400"}, "it must be host:port of member 0"),
        ({"STELLA_COORDINATOR": "192.0.2.2:70000"}, "it must be host:port of member 0"),
        (
            {"RANK": "0", "WORLD_SIZE": "2", "STELLA_COORDINATOR": "192.0.2.2:29400"},
            "STELLA_PORT is not set on member 0, which would listen on any port; set STELLA_PORT=29400 there",
        ),
        ({"STELLA_PEER_TIMEOUT": "nan"}, "STELLA_PEER_TIMEOUT is 'nan'; it must be"),
        ({"STELLA_MEMBER": "ü" * 33}, "'; it must be at most 64 bytes of UTF-8, all of them printable"),
        ({"STELLA_MEMBER": "a\nb"}, r"STELLA_MEMBER is 'a\nb'; it must be at most 64 bytes"),
        ({"STELLA_MEMBER": "\udcff"}, r"STELLA_MEMBER is '\udcff'; it must be at most 64 bytes"),
        ({"STELLA_CLUSTER": "\x1b[1m"}, r"STELLA_CLUSTER is '\x1b[1m'; it must be at most 64 bytes"),
        ({"STELLA_PEER_TIMEOUT": "0"}, "STELLA_PEER_TIMEOUT is '0'; it must be"),
        (
            {"RANK": "5000000000", "WORLD_SIZE": "6000000000"},
            "WORLD_SIZE is '6000000000'; it must be at most",
        ),
    ],
)
def test_nonsense_is_a_configuration_error_that_names_the_variable(
    env: dict[str, str], sentence: str
) -> None:
    if "STELLA_COORDINATOR" in env:
        membership(env | {"WORLD_SIZE": "1", "RANK": "0"})  # one member needs none of that
        env = {"RANK": "1", "WORLD_SIZE": "2"} | env
    with pytest.raises(Error, match=re.escape(sentence)) as failure:
        membership(env)
    assert failure.value.code == "configuration"


def test_another_port_on_member_0_is_a_warning_as_it_may_be_forwarded(
    caplog: pytest.LogCaptureFixture,
) -> None:
    env = {"RANK": "0", "WORLD_SIZE": "2", "STELLA_COORDINATOR": "192.0.2.2:29400"}
    membership(env | {"STELLA_PORT": "29400"})
    membership(env | {"STELLA_PORT": "29400", "STELLA_COORDINATOR": "[2001:db8::1]:29400"})
    assert caplog.messages == []
    membership(env | {"STELLA_PORT": "29401"})
    assert caplog.messages == [
        "STELLA_COORDINATOR is '192.0.2.2:29400', but member 0 listens on STELLA_PORT 29401: is that port "
        "forwarded?"
    ]


def test_a_variable_wins_over_the_scripts_argument() -> None:
    assert tuned("density", float, 0.01, {}) == 0.01
    assert tuned("density", float, 0.01, {"STELLA_DENSITY": ""}) == 0.01
    assert tuned("density", float, 0.01, {"STELLA_DENSITY": "0.5"}) == 0.5
    assert tuned("staleness", int, 1, {"STELLA_STALENESS": "0"}) == 0
    with pytest.raises(Error, match="STELLA_STALENESS is 'none'; it must be a whole number"):
        tuned("staleness", int, 1, {"STELLA_STALENESS": "none"})


def test_members_without_a_rank_are_told_so_rather_than_all_be_member_0() -> None:
    with pytest.raises(Error, match="this run has 2 members, but RANK is not set") as failure:
        membership({"WORLD_SIZE": "2"})
    assert failure.value.code == "configuration"
    assert membership({"WORLD_SIZE": "2", "SLURM_PROCID": "1"}).rank == 1
    assert membership({"WORLD_SIZE": "1"}).rank == 0


@pytest.mark.parametrize(("option", "kind", "argument"), [("density", float, "much"), ("threads", int, 1.5)])
def test_an_argument_of_another_type_is_an_error_that_names_it(
    option: str, kind: type, argument: object
) -> None:
    with pytest.raises(Error, match=f"{option} is {argument!r}; it must be a"):
        tuned(option, kind, argument, {})


@pytest.mark.parametrize(
    ("option", "text"),
    [
        ("wire", "int3"),
        ("selector", "best"),
        ("rule", "dense"),
        ("density", "0"),
        ("density", "nan"),
        ("density", "1.5"),
        ("staleness", "-1"),
        ("staleness", "1000000000000000000000"),
        ("block", "8"),
        ("block", "1e1"),
        ("bucket_mib", "-1"),
        ("bucket_mib", "inf"),
        ("bucket_mib", "nan"),
        ("bucket_mib", "0"),
        ("threads", "-1"),
        ("threads", "1000000000000000000000"),
        ("step_timeout", "-1"),
        ("step_timeout", "inf"),
    ],
)
def test_a_number_that_makes_no_sense_is_an_error_that_names_the_variable(
    option: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def member(run: Run) -> None:
        net = mlp()
        run.distribute(net, adamw(net), rule="sparse")

    variable = f"STELLA_{option.upper()}"
    monkeypatch.setenv(variable, text)
    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "configuration"
    assert f"{variable} is '{text}'; it must be " in str(failure)


@pytest.mark.parametrize("variable", [True, False])
def test_the_wire_of_the_other_rule_is_refused_before_any_member_waits(
    variable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def member(run: Run) -> None:
        net = mlp()
        run.distribute(net, adamw(net), wire=None if variable else "auto", rule="sparse")

    if variable:
        monkeypatch.setenv("STELLA_WIRE", "auto")
    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == ("configuration" if variable else "invalid_argument")
    assert "STELLA_WIRE), which is for rule='local'; under rule='sparse' it must be fp32" in str(failure)


@pytest.mark.parametrize(
    ("option", "text"),
    [
        *(("wire", wire) for wire in ("fp32", "bf16", "int8", "int4", "int2", "int1", "signs")),
        *(("selector", selector) for selector in ("blocks", "threshold", "random")),
        ("density", "1"),
        ("staleness", "0"),
        ("block", "32"),
        ("block", "64"),
        ("bucket_mib", "0.00390625"),
        ("bucket_mib", "32"),
        ("threads", "256"),
        ("step_timeout", "1e8"),
        ("step_timeout", "0.001"),
        ("pull", "0"),
        ("pull", "1"),
    ],
)
def test_the_engine_takes_all_that_a_variable_may_be(
    option: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def member(run: Run) -> None:
        net = mlp()
        run.distribute(net, adamw(net), rule="local" if option == "pull" else "sparse")

    monkeypatch.setenv(f"STELLA_{option.upper()}", text)
    run_members(1, member)


def test_the_environment_tunes_a_script_that_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    def member(run: Run) -> float:
        net = mlp()
        _, optimizer = run.distribute(net, adamw(net), density=0.01, rule="sparse")
        net(torch.ones(4, 13)).sum().backward()
        optimizer.step()
        optimizer.digest()  # waits for what is under way
        sent = optimizer.stats()["blocks_sent"]
        run.finish()
        return sent

    few = run_members(1, member)[0]
    monkeypatch.setenv("STELLA_DENSITY", "1")
    assert run_members(1, member)[0] > 10 * few


def test_the_page_names_every_variable_that_is_read() -> None:
    root = Path(__file__).parents[2]
    page = (root / "docs/environment.md").read_text()
    options = inspect.signature(Run.distribute).parameters.keys() - {"self", "model", "optimizer"}
    named = {f"STELLA_{option.upper()}" for option in options}
    for source in [*root.glob("python/stellatrain/*.py"), *root.glob("src/**/*.cpp")]:
        named |= set(re.findall(r"\"(STELLA_[A-Z_]+)\"", source.read_text()))
    assert "STELLA_CPU" in named
    assert [name for name in sorted(named) if f"`{name}`" not in page] == []


def test_every_variable_of_the_documentation_is_known_and_the_other_way_round() -> None:
    table = (Path(__file__).parents[2] / "docs" / "environment.md").read_text()
    assert set(re.findall(r"^\| `(STELLA_\w+)`", table, re.MULTILINE)) == environment._VARIABLES


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("STELLA_DENSTY", "STELLA_DENSITY"),
        ("STELLA_TREADS", "STELLA_THREADS"),
        ("STELLA_SECRETFILE", "STELLA_SECRET_FILE"),
        ("STELLA_TIMEOUT", "STELLA_STEP_TIMEOUT"),
        ("stella_density", "STELLA_DENSITY"),
        ("STELLATRAIN_DENSITY", "STELLA_DENSITY"),
        ("STELA_DENSITY", "STELLA_DENSITY"),
    ],
)
def test_a_misspelt_variable_is_told(name: str, meant: str, caplog: pytest.LogCaptureFixture) -> None:
    environment.warn_of_misspelt_variables({name: "1"})
    assert caplog.messages == [f"{name} is set, but means nothing; {meant} does"]


@pytest.mark.parametrize(
    "name", ["STELLA_ARTOIS", "STELLA_SEED", "STELLAR_DENSITY", "STELLA_", "DENSITY", "STELLA_PORT"]
)
def test_other_programs_variables_are_nobodys_business(name: str, caplog: pytest.LogCaptureFixture) -> None:
    environment.warn_of_misspelt_variables({name: "1"})
    assert not caplog.messages


def test_a_script_that_ignores_warnings_is_told_too() -> None:
    script = "import warnings; warnings.simplefilter('ignore'); import stellatrain; stellatrain.init()"
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONWARNINGS": "ignore", "STELLA_DENSTY": "0.5"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "STELLA_DENSTY is set, but means nothing; STELLA_DENSITY does" in done.stderr


@pytest.mark.parametrize(
    ("who", "sentence"),
    [
        ("hello", "who is something of type str; it must be a Membership"),
        ({"rank": 0}, "who is something of type dict; it must be a Membership"),
        (Membership(secret=b"stella-secret-1:0"), "secret is something of type bytes; it must be text"),
        (Membership(rank="a"), "rank is 'a'; it must be a whole number"),
        (Membership(port=2.5), "port is 2.5; it must be a whole number"),
        (Membership(port=70_000), "port is 70000; it must lie between 0 and 65535"),
        (Membership(join_timeout=float("nan")), "join_timeout is nan; it must be at least 0.001"),
        (Membership(name=7), "name is 7; it must be text"),
        (Membership(name="a\tb"), r"name is 'a\tb'; it must be at most 64 bytes of UTF-8"),
        (Membership(cluster="x" * 65), f"cluster is '{'x' * 29}...{'x' * 29}'; it must be at most 64 bytes"),
        (Membership(rank=3, world_size=2), "rank 3 does not exist in a world of 2"),
        (Membership(rank=1, world_size=2, coordinator="here"), "coordinator is 'here'; it must be host:port"),
        (
            Membership(world_size=2, coordinator="a:5"),
            "coordinator is 'a:5', but port is not set on member 0",
        ),
    ],
)
def test_what_cannot_be_a_script_s_own_membership_is_refused_at_once(who: Any, sentence: str) -> None:
    with pytest.raises(Error) as failure:
        Run(who)
    assert failure.value.code == "invalid_argument"
    assert str(failure.value).startswith(sentence)
