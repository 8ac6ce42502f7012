"""Trains the GPT with PyTorch's DDP over gloo; run it with torchrun or `stella lab`."""

from __future__ import annotations

import argparse
import itertools

import data
import options
import torch
import torch.distributed as dist
from model import GPT
from recorder import Recorder
from torch.distributed.algorithms.ddp_comm_hooks import default_hooks, powerSGD_hook
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, DistributedSampler


def main() -> None:
    args = options.parse(__doc__, _add_hook)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    dist.init_process_group("gloo")
    training, validation = data.load(args.context)
    model = _distribute(GPT(args.context), args)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, options.warmup_factor(args))
    sampler = DistributedSampler(training, seed=args.seed, drop_last=True)
    loader = DataLoader(training, batch_size=args.batch, sampler=sampler, drop_last=True)

    recorder = Recorder(args.log, dist.get_rank())
    stop = _AllStop()
    for step, (x, y) in enumerate(_epochs(loader, sampler)):
        loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        recorder.step(step, loss.item())
        if stop.agreed(step + 1 >= args.steps or recorder.seconds() >= args.seconds):
            break
    recorder.validate(model.module, validation, dist.get_world_size())
    dist.barrier()
    dist.destroy_process_group()


def _distribute(model: torch.nn.Module, args: argparse.Namespace) -> DistributedDataParallel:
    if args.hook != "powersgd":
        model = DistributedDataParallel(model)
        if args.hook == "fp16":
            model.register_comm_hook(None, default_hooks.fp16_compress_hook)
        return model
    # One bucket: with more, the hook starts its collectives over gloo in an order that differs by member, and
    # gloo ends with "Received data size doesn't match expected size" (torch 2.13, each of three runs).
    model = DistributedDataParallel(model, bucket_cap_mb=1000)
    state = powerSGD_hook.PowerSGDState(None, matrix_approximation_rank=args.rank, start_powerSGD_iter=2)
    model.register_comm_hook(state, powerSGD_hook.powerSGD_hook)
    return model


def _epochs(loader: DataLoader, sampler: DistributedSampler):
    for epoch in itertools.count():
        sampler.set_epoch(epoch)
        yield from loader


class _AllStop:
    """Ends training after the same step everywhere: a step after any member wanted to.

    The question travels while the next step is computed, so asking costs no step its time.
    """

    def __init__(self) -> None:
        self._asked: tuple[torch.Tensor, dist.Work] | None = None

    def agreed(self, wanted: bool) -> bool:
        flag, answered = torch.tensor([float(wanted)]), False
        if self._asked:
            self._asked[1].wait()
            answered = bool(self._asked[0].item())
        self._asked = flag, dist.all_reduce(flag, dist.ReduceOp.MAX, async_op=True)
        return answered


def _add_hook(parser: argparse.ArgumentParser) -> None:
    hooks = ("none", "fp16", "powersgd")
    parser.add_argument("--hook", choices=hooks, default="none", help="of DDP (%(default)s)")
    parser.add_argument("--rank", type=int, default=4, help="of PowerSGD (%(default)s)")


if __name__ == "__main__":
    main()
