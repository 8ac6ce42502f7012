"""stella.DataLoader: every sample once per epoch, whoever loads it."""

from __future__ import annotations

import re
import threading
import time
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from conftest import outcomes_of_members, run_members
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import TensorDataset
from training import EXACT, SPARSE, adamw, flat, loss_of, mlp, sgd

from stellatrain import DataLoader, Error
from stellatrain.loader import ShareBatchSampler
from stellatrain.run import Run

sizes = st.integers(0, 200)
batch_sizes = st.integers(1, 40)
worlds = st.integers(1, 4)


def samplers(samples: int, batch_sizes: list[int], **options) -> list[ShareBatchSampler]:
    world_size = len(batch_sizes)
    return [
        ShareBatchSampler(samples, size, rank, world_size, **options) for rank, size in enumerate(batch_sizes)
    ]


@given(sizes, st.lists(batch_sizes, min_size=1, max_size=4), st.booleans(), st.integers(0, 3))
@settings(deadline=None)
def test_every_sample_comes_exactly_once_per_epoch_over_all_members(
    samples: int, sizes: list[int], shuffle: bool, epoch: int
) -> None:
    dealt = []
    for sampler, size in zip(samplers(samples, sizes, shuffle=shuffle), sizes, strict=True):
        sampler.epoch = epoch
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert all(1 <= len(batch) <= size for batch in batches)
        dealt += [sample for batch in batches for sample in batch]
    assert sorted(dealt) == list(range(samples))


@given(sizes, st.lists(batch_sizes, min_size=1, max_size=4), st.booleans())
@settings(deadline=None)
def test_drop_last_gives_full_batches_only_and_no_sample_twice(
    samples: int, sizes: list[int], shuffle: bool
) -> None:
    dealt = []
    for sampler, size in zip(samplers(samples, sizes, shuffle=shuffle, drop_last=True), sizes, strict=True):
        batches = list(sampler)
        assert len(batches) == len(sampler) == samples // len(sizes) // size
        assert all(len(batch) == size for batch in batches)
        dealt += [sample for batch in batches for sample in batch]
    assert len(set(dealt)) == len(dealt)
    assert set(dealt) <= set(range(samples))


@given(sizes, batch_sizes, worlds)
@settings(deadline=None)
def test_equal_batch_sizes_give_equally_many_batches_where_the_numbers_allow_it(
    samples: int, size: int, world_size: int
) -> None:
    counts = {len(sampler) for sampler in samplers(samples, [size] * world_size)}
    smallest_share, largest_share = samples // world_size, -(-samples // world_size)
    if smallest_share >= -(-largest_share // size):
        assert len(counts) == 1


def test_every_epoch_is_shuffled_anew_and_alike_by_equal_seeds() -> None:
    def order(epoch: int, seed: int = 0) -> list[list[int]]:
        sampler = ShareBatchSampler(50, 7, 0, 2, shuffle=True, seed=seed)
        sampler.epoch = epoch
        return list(sampler)

    assert order(0) == order(0)
    assert order(0) != order(1)
    assert order(0) != order(0, seed=1)


def dataset(samples: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(3)
    return TensorDataset(
        torch.randn(samples, 13, generator=generator), torch.randn(samples, 5, generator=generator)
    )


def train_an_epoch(net, optimizer, loader) -> int:
    steps = 0
    for batch in loader:
        optimizer.zero_grad()
        loss_of(net, batch).backward()
        optimizer.step(samples=len(batch[0]))
        steps += 1
    return steps


@pytest.mark.parametrize("options", [EXACT, SPARSE], ids=["exact", "sparse"])
@pytest.mark.parametrize(
    ("world_size", "samples", "batch"),
    [(2, 21, [4, 4]), (2, 24, [4, 2]), (3, 23, [1, 5, 3]), (3, 2, [4, 4, 4]), (4, 9, [2, 2, 2, 1])],
)
def test_members_with_unequal_numbers_of_batches_train_epoch_after_epoch(
    world_size: int, samples: int, batch: list[int], options: dict
) -> None:
    nets = [mlp() for _ in range(world_size)]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **options, rule="sparse")
        loader = DataLoader(dataset(samples), batch[run.rank], shuffle=True, run=run)
        ends = []
        for _ in range(3):
            steps = train_an_epoch(net, optimizer, loader)
            assert steps == len(loader)
            ends.append((optimizer.iteration, optimizer.digest()))
        run.finish()
        return ends, flat(net)

    results = run_members(world_size, member)
    for ends, weights in results:
        assert ends == results[0][0]
        assert torch.equal(weights, results[0][1])


def accumulate_an_epoch(net, optimizer, loader, k: int, at_the_end: bool) -> None:
    for i, batch in enumerate(loader):
        loss_of(net, batch).backward()
        if (i + 1) % k == 0 or (at_the_end and i + 1 == len(loader)):
            optimizer.step()
            optimizer.zero_grad()


def test_accumulation_that_steps_at_the_last_batch_keeps_uneven_members_together() -> None:
    """docs/torch.md: here one member has fewer batches than it accumulates over."""
    nets = [mlp(), mlp()]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **SPARSE, rule="sparse")
        loader = DataLoader(dataset(16), [1, 4][run.rank], run=run)
        assert len(loader) == [8, 2][run.rank]
        ends = []
        for _ in range(3):
            accumulate_an_epoch(net, optimizer, loader, 4, at_the_end=True)
            ends.append((optimizer.iteration, optimizer.digest()))
        run.finish()
        return ends, flat(net).tolist()

    first, second = run_members(2, member)
    assert first == second


def test_a_member_that_never_steps_in_an_uneven_epoch_lets_the_others_wait() -> None:
    """docs/torch.md: its own loop ends at once, at iteration 0; finish() lets the others go."""
    nets = [mlp(), mlp()]
    seen = threading.Event()

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **SPARSE, rule="sparse")
        loader = DataLoader(dataset(16), [1, 4][run.rank], run=run)
        accumulate_an_epoch(net, optimizer, loader, 4, at_the_end=False)
        iteration, before_the_other = optimizer.iteration, not seen.is_set()
        seen.set()
        if run.rank == 1:
            time.sleep(0.5)  # the other one must not come out of its loop meanwhile
        run.finish()
        return iteration, before_the_other

    (waiting, waiting_first), (looking, looking_first) = run_members(2, member)
    assert (looking, looking_first) == (0, True)
    assert (waiting, waiting_first) == (3, False)


def test_a_member_that_saves_without_a_step_in_an_uneven_epoch_ends_the_run(tmp_path: Path) -> None:
    """docs/torch.md."""
    nets = [mlp(), mlp()]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **SPARSE, rule="sparse")
        loader = DataLoader(dataset(16), [1, 4][run.rank], run=run)
        accumulate_an_epoch(net, optimizer, loader, 4, at_the_end=False)
        run.save(tmp_path)

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert re.search(r'member 1 .* in all_gather "save" .* member 0 .* in step\(\) for its', str(failure))


def test_a_mean_while_another_member_is_at_the_end_of_its_epoch_ends_the_run() -> None:
    nets = [mlp(), mlp()]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **SPARSE, rule="sparse")
        for batch in DataLoader(dataset(16), [4, 1][run.rank], run=run):
            loss_of(net, batch).backward()
            optimizer.step()
            if optimizer.iteration == 5:
                run.mean(1.0)  # member 0 has made its two steps

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert re.search(r"\"mean\" .* member 0 .* at the end of its DataLoader's epoch for", str(failure))


def test_a_loop_that_is_broken_off_neither_waits_nor_counts_as_an_epoch() -> None:
    nets = [mlp(), mlp()]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **SPARSE, rule="sparse")
        loader = DataLoader(dataset(16), [1, 4][run.rank], run=run)
        for batch in loader:
            loss_of(net, batch).backward()
            optimizer.step()
            break
        iteration = optimizer.iteration
        run.finish()
        return iteration, loader.epoch

    assert run_members(2, member) == [(1, 0)] * 2


def test_an_epoch_over_members_is_an_epoch_of_plain_torch_on_the_union_batches() -> None:
    data = dataset(24)
    nets = [mlp(), mlp()]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, sgd(net), **EXACT, rule="sparse")
        train_an_epoch(net, optimizer, DataLoader(data, 4, run=run))
        run.finish()
        return flat(net)

    results = run_members(2, member)
    net = mlp()
    optimizer = sgd(net)
    for begin in range(0, 24, 8):
        optimizer.zero_grad()
        loss_of(net, data[begin : begin + 8]).backward()
        optimizer.step()
    for weights in results:
        assert torch.allclose(weights, flat(net), atol=1e-5)


def test_an_evaluation_loader_waits_for_nobody() -> None:
    """Members with unequal numbers of batches evaluate in the middle of an epoch, one of them twice."""
    nets = [mlp(), mlp()]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **SPARSE, rule="sparse")
        evaluation = DataLoader(dataset(9), 2, training=False, run=run)
        seen = 0
        for number, batch in enumerate(DataLoader(dataset(20), 2, run=run)):
            loss_of(net, batch).backward()
            optimizer.step()
            if number == 2:
                for _ in range(run.rank + 1):
                    with torch.no_grad():
                        seen += sum(len(x) for x, _ in evaluation)
        run.finish()
        return seen, flat(net)

    (first, weights), (second, others) = run_members(2, member)
    assert (first, second) == (5, 2 * 4)
    assert torch.equal(weights, others)


def test_a_training_loader_that_is_only_looked_at_waits_for_nobody() -> None:
    def member(run: Run):
        net = mlp()
        run.distribute(net, adamw(net), rule="sparse")
        loader = DataLoader(dataset(5), 2, run=run)
        seen = sum(len(x) for x, _ in loader) if run.rank == 0 else 0
        run.finish()
        return seen

    assert run_members(2, member) == [3, 0]


def doubled(batch: list) -> torch.Tensor:
    return 2 * torch.stack([x for x, _ in batch])


def test_options_of_torchs_loader_pass_through() -> None:
    def member(run: Run):
        loader = DataLoader(
            dataset(8), 3, run=run, num_workers=1, collate_fn=doubled, persistent_workers=True
        )
        return [torch.cat(list(loader)) for _ in range(2)]

    ((first, again),) = run_members(1, member)
    assert torch.equal(first, 2 * dataset(8).tensors[0])
    assert torch.equal(first, again)


def test_training_goes_on_beside_worker_processes() -> None:
    nets = [mlp(), mlp()]

    def member(run: Run):
        net = nets[run.rank]
        _, optimizer = run.distribute(net, adamw(net), **SPARSE, rule="sparse")
        loader = DataLoader(dataset(18), 2, run=run, num_workers=1)
        for _ in range(2):
            train_an_epoch(net, optimizer, loader)
        run.finish()
        return flat(net)

    first, second = run_members(2, member)
    assert torch.equal(first, second)


@pytest.mark.parametrize("differs", ["samples", "seed", "shuffle"])
def test_members_that_load_different_data_are_told_in_what_they_differ(differs: str) -> None:
    def member(run: Run):
        options = {"seed": 0, "shuffle": True}
        samples = 10
        if run.rank == 1:
            samples += differs == "samples"
            options |= {"seed": {"seed": 5}, "shuffle": {"shuffle": False}}.get(differs, {})
        DataLoader(dataset(samples), 2, run=run, **options)

    for failure in outcomes_of_members(2, member):
        assert isinstance(failure, Error)
        assert failure.code == "mismatch"
        assert f"DataLoader: {differs} is" in str(failure)


class Stream(torch.utils.data.IterableDataset):
    def __iter__(self):
        return iter(range(3))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"dataset": Stream()}, "map-style"),
        ({"dataset": 5}, "dataset is 5; it must be a map-style dataset"),
        ({"dataset": None}, "dataset is None; it must be a map-style dataset"),
        ({"dataset": iter([])}, "dataset is <list_iterator"),
        ({"dataset": {1, 2}}, "dataset is {1, 2}; it must be a map-style dataset"),
        ({"dataset": torch.utils.data.Dataset()}, "it must be a map-style dataset"),
        ({"sampler": [1]}, "sampler is not supported"),
        ({"batch_sampler": [[1]]}, "batch_sampler is not supported"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"batch_size": "3"}, "batch_size is '3'"),
        ({"batch_size": None}, "batch_size is None"),
        ({"seed": 1.5}, "seed is 1.5; it must be a whole number"),
        ({"shuffle": "x"}, "shuffle is 'x'; it must be True or False"),
        ({"drop_last": None}, "drop_last is None; it must be True or False"),
        ({"training": 0}, "training is 0; it must be True or False"),
        ({"seed": -1}, "seed is -1; it must be a whole number, at least 0"),
        ({"seed": 1 << 70}, "seed is 1180591620717411303424; it must be a whole number"),
    ],
)
def test_what_cannot_be_dealt_out_is_refused(arguments: dict, sentence: str) -> None:
    def member(run: Run):
        DataLoader(**({"dataset": dataset(4), "run": run} | arguments))

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "invalid_argument"
    assert sentence in str(failure)


@pytest.mark.parametrize("epoch", [-1, 1.5, "2", None])
def test_an_epoch_that_no_checkpoint_could_hold_is_refused(epoch: Any) -> None:
    def member(run: Run):
        DataLoader(dataset(4), run=run).set_epoch(epoch)

    (failure,) = outcomes_of_members(1, member)
    assert isinstance(failure, Error)
    assert failure.code == "invalid_argument"
    assert f"epoch is {epoch!r}; it must be a whole number, at least 0" in str(failure)


def test_seed_epoch_and_batch_size_may_be_numpy_s() -> None:
    def member(run: Run):
        options = {"batch_size": numpy.int64(3), "seed": numpy.uint8(5)}
        loader = DataLoader(dataset(7), shuffle=True, run=run, **options)
        loader.set_epoch(numpy.int32(2))
        return [batch[0].tolist() for batch in loader]

    def plain(run: Run):
        loader = DataLoader(dataset(7), 3, shuffle=True, seed=5, run=run)
        loader.set_epoch(2)
        return [batch[0].tolist() for batch in loader]

    assert run_members(2, member) == run_members(2, plain)
