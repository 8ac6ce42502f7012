"""Trains the GPT with StellaTrain; alone, or as one of several members."""

from __future__ import annotations

import itertools

import data
import options
import torch
from model import GPT
from recorder import Recorder

import stellatrain as stella


def main() -> None:
    args = options.parse(__doc__)
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    stella.init()
    training, validation = data.load(args.context)
    model = GPT(args.context)
    optimizer = torch.optim.AdamW(model.parameters(), lr=args.lr, fused=True)
    model, optimizer = stella.distribute(model, optimizer)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, options.warmup_factor(args))
    loader = stella.DataLoader(training, batch_size=args.batch, shuffle=True, drop_last=True, seed=args.seed)

    recorder = Recorder(args.log, stella.rank())
    for step, (x, y) in enumerate(_epochs(loader)):
        loss = model(x, y)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
        recorder.step(step, loss.item())
        if step + 1 >= args.steps or recorder.seconds() >= args.seconds:
            break
    recorder.stages(stella.stats())
    stella.finish()
    recorder.validate(model, validation, stella.world_size())


def _epochs(loader: stella.DataLoader):
    for _ in itertools.count():
        yield from loader


if __name__ == "__main__":
    main()
