"""A torch DataLoader over this member's share of every epoch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, IterableDataset, Sampler

from stellatrain import process_run
from stellatrain.agreement import until_all_heard
from stellatrain.errors import error, flag, shown, whole
from stellatrain.messages import exchanged, require
from stellatrain.run import Run


class ShareBatchSampler(Sampler[list[int]]):
    """Deals every sample of an epoch to exactly one member; pure arithmetic, the same on all members.

    With equal batch sizes all members get equally many batches wherever the numbers allow it: the last
    batches are smaller rather than missing.
    """

    def __init__(
        self,
        samples: int,
        batch_size: int,
        rank: int,
        world_size: int,
        *,
        shuffle: bool = False,
        drop_last: bool = False,
        seed: int = 0,
    ):
        self.samples, self.batch_size = samples, batch_size
        self.rank, self.world_size = rank, world_size
        self.shuffle, self.drop_last, self.seed = shuffle, drop_last, seed
        self.epoch = 0

    def __len__(self) -> int:
        if self.drop_last:
            return self.samples // self.world_size // self.batch_size
        largest_share = -(-self.samples // self.world_size)
        return min(self._share_size(), -(-largest_share // self.batch_size))

    def __iter__(self) -> Iterator[list[int]]:
        order = range(self.samples)
        if self.shuffle:
            generator = torch.Generator("cpu").manual_seed(self.seed + self.epoch)
            order = torch.randperm(self.samples, generator=generator, device="cpu").tolist()
        share = list(order[self.rank :: self.world_size])
        batches = len(self)
        begin = 0
        for left in range(batches, 0, -1):
            # Full batches first, but at least one sample for each that is to come.
            end = min(begin + self.batch_size, len(share) - (left - 1))
            yield share[begin:end]
            begin = end

    def _share_size(self) -> int:
        return len(range(self.rank, self.samples, self.world_size))


def _samples_of(dataset: Any) -> int:
    try:
        if not hasattr(dataset, "__getitem__"):
            raise TypeError(f"{type(dataset).__name__} has no __getitem__")
        return len(dataset)
    except (TypeError, NotImplementedError) as cause:  # the latter: torch's where a class does not say
        raise error(
            "invalid_argument",
            f"dataset is {shown(dataset)}; it must be a map-style dataset, with length and samples by index",
        ) from cause


class DataLoader(torch.utils.data.DataLoader):
    """torch's DataLoader; `batch_size` is this member's, each sample comes once per epoch over all members.

    shuffle uses `seed` + epoch, equal on all members; every pass to the end is a new epoch (set_epoch()
    sets its number). Both are whole numbers from 0 to 2^62.
    Where members have unequal numbers of batches, one that ends earlier contributes nothing until all have
    ended, inside the end of its loop; every member must have stepped at least once in it (docs/torch.md).
    Pass training=False for evaluation, where nobody steps.

    Not supported: iterable datasets, samplers of your own (Error("invalid_argument")). Collective.
    """

    def __init__(
        self,
        dataset: Dataset,
        batch_size: int = 1,
        shuffle: bool = False,
        *,
        drop_last: bool = False,
        seed: int = 0,
        training: bool = True,
        run: Run | None = None,
        **options: Any,
    ):
        for refused in ("sampler", "batch_sampler"):
            if options.get(refused) is not None:
                raise error(
                    "invalid_argument",
                    f"DataLoader deals out the samples itself; {refused} is not supported",
                )
        if isinstance(dataset, IterableDataset):
            raise error(
                "invalid_argument",
                "an IterableDataset has no length to deal out; use a map-style dataset",
            )
        samples = _samples_of(dataset)
        batch_size = whole(batch_size, "batch_size", least=1)
        seed = whole(seed, "seed", least=0)
        for name, value in (("shuffle", shuffle), ("drop_last", drop_last), ("training", training)):
            flag(value, name)
        if run is not None and not isinstance(run, Run):
            raise error("invalid_argument", f"run is {run!r}; it must be what stellatrain.init() returned")
        self._run = run if run is not None else process_run.default_run()
        self._training = training
        shares = ShareBatchSampler(
            samples,
            batch_size,
            self._run.rank,
            self._run.world_size,
            shuffle=shuffle,
            drop_last=drop_last,
            seed=seed,
        )
        self._shares = shares
        self._uneven = self._agree(samples, seed, shuffle)
        super().__init__(dataset, batch_sampler=shares, **options)
        if training:
            self._run.add_loader(self)

    @property
    def epoch(self) -> int:
        """The number of the pass under way, else of the next one; load() brings it back."""
        return self._shares.epoch

    def set_epoch(self, epoch: int) -> None:
        """The number of the next pass; it decides the order of a shuffled epoch."""
        self._shares.epoch = whole(epoch, "epoch", least=0)

    def __iter__(self) -> Iterator[Any]:
        optimizer = self._run.optimizer
        before = optimizer.iteration if optimizer is not None else 0
        yield from super().__iter__()
        self._shares.epoch += 1
        if not (self._training and self._uneven) or optimizer is None:
            return
        if optimizer.iteration > before or len(self._shares) == 0:
            optimizer.end_epoch()

    def _agree(self, samples: int, seed: int, shuffle: bool) -> bool:
        """Whether members have unequal numbers of batches. Error("mismatch") if they differ in the data."""
        mine = {"samples": samples, "seed": seed, "shuffle": shuffle, "batches": len(self._shares)}

        def check(message: Any) -> None:
            require(message.keys() == mine.keys(), f"an object with {', '.join(mine)}")
            require(type(message["batches"]) is int, "a number of batches")

        all_ = exchanged(self._run.session, "DataLoader", mine, check)
        for rank, theirs in enumerate(all_):
            who = self._run.describe(rank)
            for key in ("samples", "seed", "shuffle"):
                if theirs[key] != mine[key]:
                    until_all_heard(self._run, "DataLoader")
                    raise error(
                        "mismatch",
                        f"DataLoader: {key} is {mine[key]} here, {theirs[key]} on {who}; all members must "
                        "load the same data set in the same order",
                    )
        return len({theirs["batches"] for theirs in all_}) > 1
