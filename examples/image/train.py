"""Trains a small convolutional network on Fashion-MNIST with StellaTrain, alone or as a member."""

from __future__ import annotations

import argparse
import time

import data
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import stellatrain as stella


def main() -> None:
    args = _options()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    stella.init()
    training, test = data.load()
    model = network()
    optimizer = torch.optim.SGD(
        model.parameters(), lr=args.lr, momentum=0.9, nesterov=True, weight_decay=5e-4
    )
    model, optimizer = stella.distribute(model, optimizer)
    loader = stella.DataLoader(training, batch_size=args.batch, shuffle=True, drop_last=True, seed=args.seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.epochs * len(loader))

    start = time.monotonic()
    for epoch in range(args.epochs):
        for step, (images, labels) in enumerate(loader):
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
            if stella.rank() == 0 and step % 50 == 0:
                seconds = time.monotonic() - start
                print(
                    f"epoch {epoch}  step {step:4} of {len(loader)}  loss {loss.item():.3f}  "
                    f"{seconds:6.1f} s",
                    flush=True,
                )
    stella.finish()
    if stella.rank() == 0:
        print(f"test accuracy {accuracy(model, test):.2%}", flush=True)


def network() -> nn.Sequential:
    """Returns the classifier: [B, 1, 28, 28] to the logits of 10 classes, [B, 10]."""
    return nn.Sequential(
        *_stage(1, 16),
        nn.MaxPool2d(2),
        *_stage(16, 32),
        nn.MaxPool2d(2),
        *_stage(32, 64),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(64, 10),
    )


def accuracy(model: nn.Module, test: TensorDataset) -> float:
    """Returns the share of `test` that `model` classifies right."""
    model.eval()
    with torch.no_grad():
        batches = DataLoader(test, batch_size=500)
        right = sum((model(x).argmax(1) == y).sum().item() for x, y in batches)
    return right / len(test)


def _stage(channels_in: int, channels_out: int) -> list[nn.Module]:
    return [
        nn.Conv2d(channels_in, channels_out, 3, padding=1, bias=False),
        nn.BatchNorm2d(channels_out),
        nn.ReLU(),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    add = parser.add_argument
    add("--epochs", type=int, default=2, help="%(default)s")
    add("--batch", type=int, default=64, help="images per member and step (%(default)s)")
    add("--lr", type=float, default=0.05, help="first learning rate (%(default)s)")
    add("--seed", type=int, default=0, help="of weights and data order (%(default)s)")
    add("--threads", type=int, default=1, help="CPU threads of torch (%(default)s)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
