"""Trains the GPT with PyTorch's DDP over gloo; run it with torchrun or `stella lab`."""

from __future__ import annotations

import itertools

import data
import options
import torch
import torch.distributed as dist
from model import GPT
from recorder import Recorder
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler


def main() -> None:
    args = options.parse(__doc__)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    dist.init_process_group("gloo")
    training, validation = data.load(args.context)
    model = DistributedDataParallel(GPT(args.context))
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, options.warmup_factor(args))
    sampler = DistributedSampler(training, seed=args.seed, drop_last=True)
    loader = DataLoader(training, batch_size=args.batch, sampler=sampler, drop_last=True)

    recorder = Recorder(args.log, dist.get_rank())
    for step, (x, y) in enumerate(_epochs(loader, sampler)):
        loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        recorder.step(step, loss.item())
        if _all_stop(step + 1 >= args.steps or recorder.seconds() >= args.seconds):
            break
    recorder.validate(model.module, validation, dist.get_world_size())
    dist.barrier()
    dist.destroy_process_group()


def _epochs(loader: DataLoader, sampler: DistributedSampler):
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from loader


def _all_stop(wanted: bool) -> bool:
    """Whether any member wants to stop; all must take the same number of steps."""
    flag = torch.tensor([float(wanted)])
    dist.all_reduce(flag, dist.ReduceOp.MAX)
    return bool(flag.item())


if __name__ == "__main__":
    main()
