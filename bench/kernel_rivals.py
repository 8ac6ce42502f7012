"""What a user would take instead of the kernels, timed: torch's optimizers and top-k, DeepSpeed's CPUAdam.

usage: python -m bench.kernel_rivals --threads 1 ROW [ROW ...]

Prints one JSON object: for each row the median seconds of one call. Rows, with N millions of parameters as
tensors of a million each:
  adamw-fused-N  adamw-default-N  sgd-fused-N  sgd-default-N  topk-N (abs and topk of 1 % of one tensor)
  deepspeed-N (needs deepspeed; its extension is built at the first use)
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable

import torch

MILLION = 2**20


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("rows", nargs="+", metavar="ROW")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    print(json.dumps({row: seconds(call_of(row)) for row in args.rows}))


def call_of(row: str) -> Callable[[], object]:
    kind, _, millions = row.rpartition("-")
    if kind == "topk":
        return top_k(int(millions))
    return OPTIMIZERS[kind](parameters(int(millions))).step


def parameters(millions: int) -> list[torch.nn.Parameter]:
    tensors = [torch.nn.Parameter(torch.randn(MILLION)) for _ in range(millions)]
    for tensor in tensors:
        tensor.grad = torch.randn(MILLION)
    return tensors


def top_k(millions: int) -> Callable[[], object]:
    gradient = torch.randn(millions * MILLION)
    return lambda: gradient.abs().topk(gradient.numel() // 100)


def deepspeed(tensors: list[torch.nn.Parameter]) -> torch.optim.Optimizer:
    from deepspeed.ops.adam import DeepSpeedCPUAdam

    return DeepSpeedCPUAdam(tensors, lr=1e-3, weight_decay=0.01, adamw_mode=True)


OPTIMIZERS: dict[str, Callable[[list[torch.nn.Parameter]], torch.optim.Optimizer]] = {
    "adamw-fused": lambda tensors: torch.optim.AdamW(tensors, lr=1e-3, fused=True),
    "adamw-default": lambda tensors: torch.optim.AdamW(tensors, lr=1e-3),
    "sgd-fused": lambda tensors: torch.optim.SGD(tensors, lr=1e-3, momentum=0.9, fused=True),
    "sgd-default": lambda tensors: torch.optim.SGD(tensors, lr=1e-3, momentum=0.9),
    "deepspeed": deepspeed,
}


def seconds(call: Callable[[], object]) -> float:
    """Median of at least three calls and half a second, after one that takes the memory."""
    call()
    times: list[float] = []
    while len(times) < 3 or sum(times) < 0.5:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
    return statistics.median(times)


if __name__ == "__main__":
    main()
