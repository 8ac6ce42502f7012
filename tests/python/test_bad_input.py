"""What members get wrong is an error that says what to do, on every side, soon."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SECRET, free_port, membership_of, outcomes_of_members, run_members
from training import adamw, flat, loss_of, mlp, sgd, vectors

from stellatrain import Error, _core, rendezvous
from stellatrain.run import Run


def outcomes(members: list) -> list[Any]:
    """Joins each on a thread; the errors, or None, by place."""
    results: list[Any] = [None] * len(members)

    def join(place: int) -> None:
        try:
            with Run(members[place]):
                time.sleep(0.2)
        except Error as failure:
            results[place] = failure

    threads = [threading.Thread(target=join, args=(place,), daemon=True) for place in range(len(members))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()
    return results


def test_another_secret_is_told_to_both_sides() -> None:
    port = free_port()
    start = time.monotonic()
    listening, connecting = outcomes(
        [
            membership_of(0, 2, port, join_timeout=2.0),
            membership_of(1, 2, port, join_timeout=2.0, secret=_core.new_secret()),
        ]
    )
    assert time.monotonic() - start < 10
    assert connecting.code == "unauthenticated"
    assert "secret" in str(connecting)
    assert listening.code == "timeout"
    assert "member 1" in str(listening)
    assert "another run secret?" in str(listening)


def test_several_members_without_a_secret_are_told_how_to_make_one() -> None:
    (failure,) = outcomes([membership_of(0, 2, free_port(), secret="")])
    assert failure.code == "configuration"
    assert "stella secret new > run.key" in str(failure)


def test_a_secret_file_that_others_can_read_is_refused(tmp_path: Path) -> None:
    key = tmp_path / "run.key"
    key.write_text(SECRET + "\n")
    key.chmod(0o644)
    (failure,) = outcomes([membership_of(0, 2, free_port(), secret="", secret_file=str(key))])
    assert failure.code == "configuration"
    assert "chmod" in str(failure)
    assert str(key) in str(failure)


def test_a_secret_file_of_its_owner_is_used(tmp_path: Path) -> None:
    key = tmp_path / "run.key"
    key.write_text(SECRET + "\n")
    key.chmod(0o600)
    assert run_members(2, lambda run: run.rank, secret="", secret_file=str(key)) == [0, 1]


def test_another_world_size_is_told_to_both_sides() -> None:
    port = free_port()
    for failure in outcomes([membership_of(0, 2, port), membership_of(1, 3, port, join_timeout=5.0)]):
        assert failure.code == "mismatch"
        assert "a world of 3" in str(failure)


def test_two_members_of_one_rank_are_told() -> None:
    port = free_port()
    members = [membership_of(rank, 3, port, join_timeout=5.0) for rank in (0, 1, 1)]
    for failure in outcomes(members):
        assert "both claim rank 1" in str(failure)


def test_a_port_in_use_is_named_with_its_variable() -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = taken.getsockname()[1]
        (failure,) = outcomes([membership_of(0, 2, port)])
    assert failure.code == "configuration"
    assert str(port) in str(failure)
    assert "STELLA_PORT" in str(failure)


def test_a_member_that_never_comes_is_named_by_all_after_the_join_timeout() -> None:
    port = free_port()
    start = time.monotonic()
    first, second = outcomes([membership_of(rank, 3, port, join_timeout=2.0) for rank in (0, 1)])
    assert 1.5 < time.monotonic() - start < 10
    for failure in (first, second):
        assert isinstance(failure, Error)
    assert first.code == "timeout"
    assert "member 2" in str(first)
    assert "2 s" in str(first)


def test_a_member_that_waits_says_where_it_listens(capfd: pytest.CaptureFixture[str]) -> None:
    port = free_port()
    outcomes([membership_of(0, 2, port, join_timeout=0.3)])
    assert f"member 0 of 2 listens on port {port} and waits for the others" in capfd.readouterr().err


def test_who_is_awaited_is_told_long_before_the_timeout(capfd: pytest.CaptureFixture[str]) -> None:
    outcomes([membership_of(1, 2, free_port(), join_timeout=6.0)])
    lines = capfd.readouterr().err.splitlines()
    (hint,) = (line for line in lines if "after 5 s this run of 2 still lacks member 0" in line)
    assert "refused" in hint


def test_member_0_that_never_comes_is_named_after_the_join_timeout() -> None:
    (failure,) = outcomes([membership_of(1, 2, free_port(), join_timeout=1.0)])
    assert failure.code == "timeout"
    assert "member 0" in str(failure)


def test_a_member_that_cannot_know_where_the_others_are_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    (failure,) = outcomes([membership_of(1, 2, free_port(), coordinator="")])
    assert failure.code == "configuration"
    assert "STELLA_COORDINATOR" in str(failure)
    assert "torchrun" in str(failure)


@pytest.mark.parametrize("port", ["", "many"])
def test_a_master_port_that_is_none_is_told(monkeypatch: pytest.MonkeyPatch, port: str) -> None:
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", port)
    (failure,) = outcomes([membership_of(1, 2, free_port(), coordinator="")])
    assert failure.code == "configuration"
    assert f"MASTER_PORT is '{port}'" in str(failure)


@pytest.mark.parametrize(("alone", "missing"), [(0, "member 1"), (1, "member 0")])
def test_a_member_that_does_not_come_to_torchs_store_is_named(
    monkeypatch: pytest.MonkeyPatch, alone: int, missing: str
) -> None:
    port = free_port()
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(port))
    (failure,) = outcomes([membership_of(alone, 2, free_port(), coordinator="", join_timeout=1.5)])
    assert failure.code == "timeout"
    assert missing in str(failure)
    assert f"127.0.0.1:{port}" in str(failure)


def test_a_master_address_that_no_name_server_knows_is_waited_for_and_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The name of a pod or container may appear after its neighbours have started."""
    monkeypatch.setenv("MASTER_ADDR", "nobody.invalid")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    (failure,) = outcomes([membership_of(1, 2, free_port(), coordinator="", join_timeout=1.5)])
    assert isinstance(failure, Error)
    assert failure.code == "timeout"
    assert "nobody.invalid" in str(failure)


def test_an_address_of_ones_own_that_cannot_be_told_asks_for_stella_host(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def unknown(*_args: object, **_named: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    monkeypatch.setattr(rendezvous.socket, "getaddrinfo", unknown)
    (failure,) = outcomes([membership_of(0, 2, free_port(), coordinator="", join_timeout=1.5)])
    assert failure.code == "configuration"
    assert "STELLA_HOST" in str(failure)
    assert "MASTER_ADDR 127.0.0.1" in str(failure)


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("lr", -1.0, "lr is -1 in a param_group; it must be at least 0"),
        ("lr", float("nan"), "lr is nan in a param_group; it must be finite"),
        ("beta1", 1.5, "beta1 is 1.5 in a param_group; it must be below 1"),
    ],
)
def test_settings_that_make_no_sense_are_told_before_an_engine_sees_them(
    field: str, value: float, sentence: str
) -> None:
    settings = _core.GroupSettings()
    settings.validate()
    setattr(settings, field, value)
    with pytest.raises(Error, match=re.escape(sentence)) as failure:
        settings.validate()
    assert failure.value.code == "invalid_argument"


def store_with(addresses: dict[int, str]) -> torch.distributed.TCPStore:
    store = torch.distributed.TCPStore(
        "127.0.0.1", int(os.environ["MASTER_PORT"]), is_master=True, wait_for_workers=False, multi_tenant=True
    )
    for rank, address in addresses.items():
        store.set(f"stellatrain/run/0/{rank}", address)
    return store


def test_the_join_timeout_is_that_of_the_store_and_the_members_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A store that comes late leaves less time for the member that never comes."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    stores: list[torch.distributed.TCPStore] = []
    late = threading.Timer(2.0, lambda: stores.append(store_with({0: f"127.0.0.1:{free_port()}"})))
    late.start()
    start = time.monotonic()
    (failure,) = outcomes([membership_of(1, 2, free_port(), coordinator="", join_timeout=3.0)])
    assert 2.9 < time.monotonic() - start < 4.5
    late.join()
    assert failure.code == "timeout"
    assert "after 3 s this run of 2 still lacks member 0" in str(failure)


def test_a_store_that_goes_while_a_member_waits_there_is_told_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = str(free_port())
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", port)
    script = (
        "import sys, torch.distributed as dist; "
        f"store = dist.TCPStore('127.0.0.1', {port}, is_master=True, wait_for_workers=False); "
        "store.get('stellatrain/run/0/1')"  # of the member that waits; then it ends
    )
    host = subprocess.Popen([sys.executable, "-c", script])
    start = time.monotonic()
    (failure,) = outcomes([membership_of(1, 2, free_port(), coordinator="", join_timeout=25.0)])
    host.wait()
    assert time.monotonic() - start < 20
    assert failure.code == "peer_lost"
    assert f"the store at 127.0.0.1:{port} went while this member waited there for member 0" in str(failure)


def test_members_find_each_other_through_torchs_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """env:// without torchrun: member 0 hosts the store."""
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.setenv("MASTER_PORT", str(free_port()))
    assert run_members(3, lambda run: len(run.members()), coordinator="", port=0) == [3, 3, 3]


@pytest.mark.parametrize("staleness", [0, 1])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_finite_is_named_and_the_run_goes_on_without_it(
    bad: float, staleness: int
) -> None:
    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, sgd(net), density=1, staleness=staleness, rule="sparse")
        failures = []
        for number, batch in enumerate(vectors(6, 4)):
            optimizer.zero_grad()
            loss_of(net, batch).backward()
            if (run.rank, number) == (1, 2):
                net[2].bias.grad[3] = bad
            try:
                optimizer.step()
            except Error as failure:
                failures.append(failure)
        run.finish()
        return flat(net), failures

    nets = [mlp(), mlp()]
    (first, none), (second, (failure,)) = run_members(2, member)
    assert none == []
    assert failure.code == "nonfinite"
    assert "'2.bias'" in str(failure)
    assert "iteration 3" in str(failure)
    assert torch.equal(first, second)
    assert bool(torch.isfinite(first).all())


def other_shape() -> torch.nn.Module:
    net = mlp()
    net[2] = torch.nn.Linear(149, 6)
    return net


def other_name() -> torch.nn.Module:
    return torch.nn.Sequential(*mlp(), torch.nn.Linear(5, 5))


@pytest.mark.parametrize(
    ("change", "sentences"),
    [
        ({"model": other_shape}, ["parameter 2 differs", "'2.weight' (5, 149)", "'2.weight' (6, 149)"]),
        ({"model": other_name}, ["parameter 4 differs", "'3.weight'", "nothing"]),
        ({"model": lambda: mlp().bfloat16()}, ["'0.weight' (149, 13) bfloat16", "float32"]),
        ({"optimizer": sgd}, ["param group 0"]),
        ({"lr": 0.5}, ["param group 0", "lr", "0.5"]),
        ({"staleness": 0}, ["staleness differs", "it is 0", "it is 1"]),
        ({"bucket_mib": 2}, ["bucket_mib differs", "is 4", "is 2"]),
        ({"block": 64}, ["block differs", "it is 16", "it is 64"]),
    ],
)
def test_members_that_differ_are_told_the_first_difference_on_both_sides(
    change: dict[str, Any], sentences: list[str]
) -> None:
    def member(run: Run):
        mine = ({"model": mlp, "optimizer": adamw} | change) if run.rank == 1 else {}
        net = mine.pop("model", mlp)()
        optimizer = mine.pop("optimizer", adamw)(net)
        if "lr" in mine:
            optimizer.param_groups[0]["lr"] = mine.pop("lr")
        run.distribute(net, optimizer, **mine, rule="sparse")

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code in ("mismatch", "peer_lost")  # seen here, or first heard from the other
        for sentence in sentences:
            assert sentence in str(failure)


def with_buffer(name: str = "more", size: int = 3, dtype: str = "float32") -> Callable[[], torch.nn.Module]:
    def model() -> torch.nn.Module:
        net = mlp()
        net.register_buffer(name, torch.zeros(size, dtype=getattr(torch, dtype)))
        net.register_buffer("last", torch.zeros(2))
        return net

    return model


def frozen(parameter: int) -> Callable[[], torch.nn.Module]:
    def model() -> torch.nn.Module:
        net = with_buffer()()
        net.register_parameter("own", torch.nn.Parameter(torch.zeros(parameter), requires_grad=False))
        return net

    return model


@pytest.mark.parametrize(
    ("models", "first"),
    [
        ((with_buffer(), mlp), ["buffer 0 is ", "'more' (3,) float32", "nothing"]),
        ((with_buffer(), with_buffer("other")), ["buffer 0 is ", "'more' (3,)", "'other' (3,)"]),
        ((with_buffer(), with_buffer(size=4)), ["buffer 0 is ", "'more' (3,)", "'more' (4,)"]),
        ((with_buffer(), with_buffer(dtype="int32")), ["'more' (3,) float32", "(3,) int32"]),
        ((frozen(2), with_buffer()), ["frozen parameter 0 is ", "'own' (2,) float32", "nothing"]),
        ((frozen(2), frozen(3)), ["frozen parameter 0 is ", "'own' (2,) float32", "'own' (3,) float32"]),
    ],
)
def test_members_that_differ_in_what_is_not_trained_are_told_the_first_difference(
    models: tuple[Callable, Callable], first: list[str]
) -> None:
    def member(run: Run) -> None:
        net = models[run.rank]()
        run.distribute(net, sgd(net), rule="sparse")

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        for part in (*first, "on member ", "every member needs the same model"):
            assert part in str(failure)


def test_members_may_choose_their_own_density_wire_and_selector() -> None:
    own = [
        {"density": 1, "wire": "bf16"},
        {"density": 0.02, "selector": "threshold"},
        {"density": 0.3, "selector": "random", "threads": 1},
    ]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **own[run.rank], rule="sparse")
        for batch in vectors(8, 4):
            loss_of(net, batch).backward()
            optimizer.step()
            optimizer.set_density(0.5)
        run.finish()
        return flat(net)

    nets = [mlp() for _ in own]
    results = run_members(3, member)
    for weights in results:
        assert torch.equal(weights, results[0])


def test_a_rank_that_no_member_has_is_told() -> None:
    def member(run: Run) -> None:
        for rank in (2, -1, 1.5):
            with pytest.raises(Error) as failure:
                run.describe(rank)
            assert failure.value.code == "invalid_argument"
            assert f"rank is {rank}; " in str(failure.value)
        assert run.describe(1).startswith("member 1 (")

    run_members(2, member)


def test_numbers_out_of_bounds_are_quoted_with_the_digits_that_count() -> None:
    def member(run: Run) -> None:
        net = mlp()
        _, optimizer = run.distribute(net, sgd(net), rule="sparse")
        with pytest.raises(Error, match=re.escape("samples is 1e-12; it must be 0, or lie between")):
            optimizer.step(samples=1e-12)
        with pytest.raises(Error, match=re.escape("density is -1e-07; it must be above 0 and at most 1")):
            optimizer.set_density(-1e-7)

    run_members(1, member)
    (failure,) = outcomes([membership_of(0, 1, free_port(), join_timeout=1e-9)])
    assert "join_timeout is 1e-09; it must be at least 0.001" in str(failure)


@pytest.mark.parametrize("density", ["0.5", None, 1j])
def test_a_density_that_is_no_number_is_named(density: Any) -> None:
    def member(run: Run) -> None:
        net = mlp()
        _, optimizer = run.distribute(net, sgd(net), rule="sparse")
        with pytest.raises(
            Error, match=re.escape(f"density is {density!r}; it must be one number")
        ) as failure:
            optimizer.set_density(density)
        assert failure.value.code == "invalid_argument"

    run_members(1, member)


def test_an_error_that_quotes_bytes_that_are_no_utf8_is_an_error_like_any_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("STELLA_LOG", "lo\udcff")  # the byte 0xff
    with pytest.raises(Error, match="STELLA_LOG is 'lo\ufffd'") as caught:
        Run(membership_of(0, 1, free_port()))
    assert caught.value.code == "configuration"
